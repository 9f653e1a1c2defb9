// The entry points that g++ -fsanitize=thread calls, in place of its own runtime library.
//
// Test code outside a launch and the runtime itself pass through with one comparison.
#include "hostcuda/runtime/race_check.h"

#if defined(THRIFTY_HOSTCUDA_RACE)

#include <atomic>

using thrifty::cuda::host::race::Kind;

namespace {
void hook(const void* address, size_t bytes, Kind kind, const void* code) {
  namespace race = thrifty::cuda::host::race;
  if (race::active && !race::stacks.holds(reinterpret_cast<uintptr_t>(address)))
    race::check_instrumented(address, bytes, kind, code);
}
}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}

#define HOOKS(size)                                                \
  void __tsan_read##size(void* address) {                          \
    hook(address, size, Kind::read, __builtin_return_address(0));  \
  }                                                                \
  void __tsan_write##size(void* address) {                         \
    hook(address, size, Kind::write, __builtin_return_address(0)); \
  }                                                                \
  void __tsan_unaligned_read##size(void* address) {                \
    hook(address, size, Kind::read, __builtin_return_address(0));  \
  }                                                                \
  void __tsan_unaligned_write##size(void* address) {               \
    hook(address, size, Kind::write, __builtin_return_address(0)); \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#undef HOOKS

void __tsan_read_range(void* address, unsigned long bytes) {
  hook(address, bytes, Kind::read, __builtin_return_address(0));
}
void __tsan_write_range(void* address, unsigned long bytes) {
  hook(address, bytes, Kind::write, __builtin_return_address(0));
}

// std::atomic in test code, and the guards of function-local statics.
#define ATOMICS(bits, type)                                                                        \
  type __tsan_atomic##bits##_load(const volatile type* a, int) {                                   \
    return __atomic_load_n(a, __ATOMIC_SEQ_CST);                                                   \
  }                                                                                                \
  void __tsan_atomic##bits##_store(volatile type* a, type v, int) {                                \
    __atomic_store_n(a, v, __ATOMIC_SEQ_CST);                                                      \
  }                                                                                                \
  type __tsan_atomic##bits##_exchange(volatile type* a, type v, int) {                             \
    return __atomic_exchange_n(a, v, __ATOMIC_SEQ_CST);                                            \
  }                                                                                                \
  type __tsan_atomic##bits##_fetch_add(volatile type* a, type v, int) {                            \
    return __atomic_fetch_add(a, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  type __tsan_atomic##bits##_fetch_sub(volatile type* a, type v, int) {                            \
    return __atomic_fetch_sub(a, v, __ATOMIC_SEQ_CST);                                             \
  }                                                                                                \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* a, type* expected, type v, int, \
                                                    int) {                                         \
    return __atomic_compare_exchange_n(a, expected, v, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);     \
  }
ATOMICS(8, unsigned char)
ATOMICS(32, unsigned int)
ATOMICS(64, unsigned long)
#undef ATOMICS
void __tsan_atomic_thread_fence(int) { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // extern "C"
#endif
