// The two implementations of Fiber and their announcements to AddressSanitizer.
#include "hostcuda/runtime/fiber.h"

#if defined(THRIFTY_HOSTCUDA_BOOST)
#include <boost/context/fiber.hpp>
#else
#include <ucontext.h>
#endif
#if defined(THRIFTY_HOSTCUDA_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#include <new>
#include <utility>

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
#endif

}  // namespace

#if defined(THRIFTY_HOSTCUDA_BOOST)

struct Fiber::Context {
  boost::context::fiber inside;   // the suspended fiber, seen from the scheduler
  boost::context::fiber outside;  // the scheduler, seen from the fiber

  void enter() { inside = std::move(inside).resume(); }
  void exit() { outside = std::move(outside).resume(); }
  // The destructor of `inside` would unwind the fiber; its handle is all there is to release.
  void forget() { new (&inside) boost::context::fiber(); }

  void prepare(Fiber* fiber, char* stack, size_t bytes) {
    inside = boost::context::fiber(std::allocator_arg, GivenStack{stack, bytes},
                                   [this, fiber](boost::context::fiber&& scheduler) {
                                     outside = std::move(scheduler);
                                     fiber->run();
                                     return std::move(outside);
                                   });
  }
};

#else

struct Fiber::Context {
  static inline Fiber* starting = nullptr;  // makecontext passes only ints
  Fiber* fiber = nullptr;
  ucontext_t inside, outside;

  void enter() {
    starting = fiber;
    swapcontext(&outside, &inside);
  }
  void exit() { swapcontext(&inside, &outside); }
  void forget() {}

  static void first() {
    Fiber* self = starting;
    self->run();
    setcontext(&self->context_->outside);
  }

  void prepare(Fiber* of, char* stack, size_t bytes) {
    fiber = of;
    getcontext(&inside);
    inside.uc_stack.ss_sp = stack;
    inside.uc_stack.ss_size = bytes;
    inside.uc_link = nullptr;
    makecontext(&inside, &Context::first, 0);
  }
};

#endif

Fiber::Fiber() : context_(std::make_unique<Context>()) {}
Fiber::~Fiber() = default;

void Fiber::start(char* stack, size_t stack_bytes, Body body, void* argument) {
  body_ = body;
  argument_ = argument;
  stack_ = stack;
  stack_bytes_ = stack_bytes;
  unfinished_ = true;
  fake_stack_ = nullptr;
  context_->prepare(this, stack, stack_bytes);
}

void Fiber::resume() {
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack_, stack_bytes_);
#endif
  context_->enter();
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
  leave(false);
  context_->exit();
  arrived();
}

void Fiber::run() {
  arrived();
  body_(argument_);
  unfinished_ = false;
  leave(true);
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

void Fiber::abandon() {
  unfinished_ = false;
#if defined(THRIFTY_HOSTCUDA_ASAN)
  __asan_unpoison_memory_region(stack_, stack_bytes_);  // its frames will never be left
#endif
  context_->forget();
}

}  // namespace thrifty::cuda::host
