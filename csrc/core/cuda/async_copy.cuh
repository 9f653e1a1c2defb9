// cp.async: global to shared memory without passing registers (sm_80 and above).
//
// The bytes arrive some time before the cp_async_wait that covers their group returns, and only the
// thread that issued them may rely on that: a barrier follows before others read. The host poisons
// the destination at issue and copies at the wait, so that a missing wait shows.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/async_copy.h"
#else
#include <cute/arch/copy_sm80.hpp>

#include "core/cuda/memory.cuh"

namespace thrifty::cuda {

// Copies kBytes (4, 8 or 16) where `valid`, else fills with zeros and leaves `source` unread.
// Both addresses are multiples of kBytes. 16 bytes bypass L1, which smaller copies cannot.
template <int kBytes>
THRIFTY_DEVICE void cp_async(void* shared_destination, const void* source, bool valid = true) {
  using Access = typename AccessType<kBytes>::type;
  const Access& from = *static_cast<const Access*>(source);
  Access& to = *static_cast<Access*>(shared_destination);
  if constexpr (kBytes == 16) {
    cute::SM80_CP_ASYNC_CACHEGLOBAL_ZFILL<Access>::copy(from, to, valid);
  } else {
    cute::SM80_CP_ASYNC_CACHEALWAYS_ZFILL<Access>::copy(from, to, valid);
  }
}

THRIFTY_DEVICE void cp_async_commit() { cute::cp_async_fence(); }

// Waits until at most kPending of this thread's newest groups are in flight. kPending == 0 also
// covers copies that were never committed.
template <int kPending>
THRIFTY_DEVICE void cp_async_wait() {
  cute::cp_async_wait<kPending>();
  asm volatile("" ::: "memory");  // CuTe leaves the compiler free to load the bytes before the wait
}

}  // namespace thrifty::cuda
#endif
