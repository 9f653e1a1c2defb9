// One suspended flow of control: a CUDA thread between two operations.
//
// Boost.Context where it is installed (45 ns a step), else ucontext (five times that). The fiber
// always switches to and from the scheduler, never to another fiber. Switches are announced to
// AddressSanitizer, which otherwise mistakes a foreign stack for an overflow.
#pragma once

#include <cstddef>

#if defined(THRIFTY_HOSTCUDA_BOOST)
#include <boost/context/fiber.hpp>
#else
#include <ucontext.h>
#endif

namespace thrifty::cuda::host {

class Fiber {
 public:
  using Body = void (*)(void* argument);

  Fiber() = default;
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
  void run();
  void leave(bool for_good);
  void arrived();

  Body body_ = nullptr;
  void* argument_ = nullptr;
  char* stack_ = nullptr;
  size_t stack_bytes_ = 0;
  bool unfinished_ = false;
  void* fake_stack_ = nullptr;  // AddressSanitizer's bookkeeping of this fiber
#if defined(THRIFTY_HOSTCUDA_BOOST)
  boost::context::fiber inside_;   // the suspended fiber, seen from the scheduler
  boost::context::fiber outside_;  // the scheduler, seen from the fiber
#else
  static void trampoline();
  ucontext_t inside_;
  ucontext_t outside_;
#endif
};

}  // namespace thrifty::cuda::host
