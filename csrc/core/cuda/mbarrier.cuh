// mbarrier: barriers in shared memory that also count the bytes of bulk copies (sm_90).
//
// A phase completes when `arrivals` threads have arrived and all expected bytes have come; waiting
// on parity p returns once the phase with that parity is over, so the first wait is on parity 0
// (and a wait on parity 1 of a fresh barrier returns at once: the usual start of a producer). An
// arrival makes the thread's earlier accesses visible to those who wait.
#pragma once

#include "core/cuda/platform.cuh"

namespace thrifty::cuda {

using Mbarrier = uint64_t;  // in shared memory: THRIFTY_SHARED(Mbarrier, full, [kStages])

}  // namespace thrifty::cuda

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/mbarrier.h"
#else
#include <cutlass/arch/barrier.h>

namespace thrifty::cuda {

// By one thread; then fence_mbarrier_init() and syncthreads() before anybody uses it.
THRIFTY_DEVICE void mbarrier_init(Mbarrier* barrier, int arrivals) {
  cutlass::arch::ClusterBarrier::init(barrier, uint32_t(arrivals));
}
THRIFTY_DEVICE void fence_mbarrier_init() { cutlass::arch::fence_barrier_init(); }

THRIFTY_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
  asm volatile("" ::: "memory");  // CUTLASS leaves the compiler free to move memory accesses
  cutlass::arch::ClusterBarrier::arrive(barrier);
}
// Arrives, and makes the phase wait for `bytes` of bulk copies.
THRIFTY_DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, int bytes) {
  asm volatile("" ::: "memory");
  cutlass::arch::ClusterTransactionBarrier::arrive_and_expect_tx(barrier, uint32_t(bytes));
}
THRIFTY_DEVICE void mbarrier_wait(Mbarrier* barrier, int parity) {
  cutlass::arch::ClusterBarrier::wait(barrier, uint32_t(parity));
  asm volatile("" ::: "memory");
}

// Between ordinary writes to shared memory and their reading by wgmma: the writers fence, then a
// barrier follows.
THRIFTY_DEVICE void fence_async_shared() {
  asm volatile("" ::: "memory");
  cutlass::arch::fence_view_async_shared();
}

}  // namespace thrifty::cuda
#endif
