// The two implementations of Fiber and their announcements to AddressSanitizer.
#include "hostcuda/runtime/fiber.h"

#include <new>
#include <utility>

#if defined(THRIFTY_HOSTCUDA_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace thrifty::cuda::host {

namespace {

#if defined(THRIFTY_HOSTCUDA_ASAN)
const void* scheduler_stack = nullptr;
size_t scheduler_stack_bytes = 0;
void* scheduler_fake_stack = nullptr;
#endif

#if defined(THRIFTY_HOSTCUDA_BOOST)
// Boost asks an allocator for the stack; ours was there before and stays.
struct GivenStack {
  char* stack;
  size_t bytes;
  boost::context::stack_context allocate() const {
    boost::context::stack_context context;
    context.size = bytes;
    context.sp = stack + bytes;
    return context;
  }
  void deallocate(boost::context::stack_context&) const {}
};
#else
Fiber* starting = nullptr;  // makecontext passes only ints
#endif

}  // namespace

void Fiber::resume() {
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_, stack_bytes_);
#endif
#if defined(THRIFTY_HOSTCUDA_BOOST)
  inside_ = std::move(inside_).resume();
#else
  starting = this;
  swapcontext(&outside_, &inside_);
#endif
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
  leave(false);
#if defined(THRIFTY_HOSTCUDA_BOOST)
  outside_ = std::move(outside_).resume();
#else
  swapcontext(&inside_, &outside_);
#endif
  arrived();
}

void Fiber::leave([[maybe_unused]] bool for_good) {
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, scheduler_stack,
                                 scheduler_stack_bytes);
#endif
}

void Fiber::arrived() {
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack, &scheduler_stack_bytes);
#endif
}

void Fiber::run() {
  arrived();
  body_(argument_);
  unfinished_ = false;
  leave(true);
}

#if !defined(THRIFTY_HOSTCUDA_BOOST)
void Fiber::trampoline() {
  Fiber* self = starting;
  self->run();
  setcontext(&self->outside_);
}
#endif

void Fiber::abandon() {
  unfinished_ = false;
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // its frames will never be left
#endif
#if defined(THRIFTY_HOSTCUDA_BOOST)
  // The destructor would unwind the fiber; its handle is all there is to release.
  new (&inside_) boost::context::fiber();
#endif
}

void Fiber::start(char* stack, size_t stack_bytes, Body body, void* argument) {
  body_ = body;
  argument_ = argument;
  stack_ = stack;
  stack_bytes_ = stack_bytes;
  unfinished_ = true;
  fake_stack_ = nullptr;
#if defined(THRIFTY_HOSTCUDA_BOOST)
  inside_ = boost::context::fiber(std::allocator_arg, GivenStack{stack, stack_bytes},
                                  [this](boost::context::fiber&& scheduler) {
                                    outside_ = std::move(scheduler);
                                    run();
                                    return std::move(outside_);
                                  });
#else
  getcontext(&inside_);
  inside_.uc_stack.ss_sp = stack;
  inside_.uc_stack.ss_size = stack_bytes;
  inside_.uc_link = nullptr;
  makecontext(&inside_, &Fiber::trampoline, 0);
#endif
}

}  // namespace thrifty::cuda::host
