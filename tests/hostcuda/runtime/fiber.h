// One suspended flow of control: a CUDA thread between two operations.
//
// Boost.Context where it is installed, else ucontext, which makes a system call at each switch. A
// fiber always switches to and from the scheduler, never to another fiber. Switches are announced
// to AddressSanitizer, which otherwise mistakes a foreign stack for an overflow.
#pragma once

#include <cstddef>
#include <memory>

namespace thrifty::cuda::host {

class Fiber {
 public:
  using Body = void (*)(void* argument);

  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares `body(argument)` to run on the given stack at the first resume.
  void start(char* stack, size_t stack_bytes, Body body, void* argument);
  void resume();   // called by the scheduler; returns when the fiber suspends or ends
  void suspend();  // called inside the fiber
  bool unfinished() const { return unfinished_; }
  // Forgets a suspended fiber where it stands; what its frames own is leaked.
  void abandon();

 private:
  struct Context;  // of the library
  void run();
  void leave(bool for_good);
  void arrived();

  Body body_ = nullptr;
  void* argument_ = nullptr;
  char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  bool unfinished_ = false;
  void* fake_stack_ = nullptr;  // AddressSanitizer's bookkeeping of this fiber
  std::unique_ptr<Context> context_;
};

}  // namespace thrifty::cuda::host
