// Atomics on shared and global memory, and the fences that order other accesses around them.
//
// All return the value before the operation and are relaxed, as CUDA's are: threadfence before a
// release, threadfence after an acquire. On the host every atomic is a point where another thread
// may run.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/atomic.h"
#else

namespace thrifty::cuda {

template <class T>
THRIFTY_DEVICE T atomic_add(T* address, T value) {
  return atomicAdd(address, value);
}
template <class T>
THRIFTY_DEVICE T atomic_max(T* address, T value) {
  return atomicMax(address, value);
}
template <class T>
THRIFTY_DEVICE T atomic_min(T* address, T value) {
  return atomicMin(address, value);
}
template <class T>
THRIFTY_DEVICE T atomic_or(T* address, T value) {
  return atomicOr(address, value);
}
template <class T>
THRIFTY_DEVICE T atomic_exchange(T* address, T value) {
  return atomicExch(address, value);
}
// Stores `value` where *address == expected.
template <class T>
THRIFTY_DEVICE T atomic_cas(T* address, T expected, T value) {
  return atomicCAS(address, expected, value);
}
template <class T>
THRIFTY_DEVICE T atomic_load(const T* address) {
  return *static_cast<const volatile T*>(address);
}

// Orders this thread's accesses before it with those after it, for the device resp. the block.
THRIFTY_DEVICE void threadfence() { __threadfence(); }
THRIFTY_DEVICE void threadfence_block() { __threadfence_block(); }

}  // namespace thrifty::cuda
#endif
