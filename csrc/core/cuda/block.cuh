// Barriers of a block: syncthreads, the same with a vote of all threads, named barriers 1 to 15.
//
// CUDA's own headers have functions called syncthreads_or, ballot and so on, hence other names.
// The host stops when some thread of the block exits without reaching a barrier that others wait
// in, or when threads of one syncthreads stand at different places of the source.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/block.h"
#else

namespace thrifty::cuda {

THRIFTY_DEVICE void syncthreads() { __syncthreads(); }
THRIFTY_DEVICE bool block_all(bool predicate) { return __syncthreads_and(predicate); }
THRIFTY_DEVICE bool block_any(bool predicate) { return __syncthreads_or(predicate); }
THRIFTY_DEVICE int block_count(bool predicate) { return __syncthreads_count(predicate); }

// Barrier `id` (1..15) opens when `threads` threads, whole warps of them, have arrived or wait in
// it; arrive does not wait. PTX and not cutlass::arch::NamedBarrier, which traps below sm_90.
THRIFTY_DEVICE void named_barrier_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
THRIFTY_DEVICE void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace thrifty::cuda
#endif
