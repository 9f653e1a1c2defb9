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
namespace thrifty::cuda {

// Copies kBytes (4, 8 or 16) where `valid`, else fills with zeros and leaves `source` unread.
// Both addresses are multiples of kBytes. 16 bytes bypass L1, which smaller copies cannot.
template <int kBytes>
THRIFTY_DEVICE void cp_async(void* shared_destination, const void* source, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp_async: 4, 8 or 16 bytes");
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared_destination));
  const int bytes = valid ? kBytes : 0;  // the rest of kBytes is filled with zeros
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(source),
                 "r"(bytes));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(source),
                 "n"(kBytes), "r"(bytes));
}

THRIFTY_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;"); }

// Waits until at most kPending of this thread's newest groups are in flight. kPending == 0 also
// covers copies that were never committed.
template <int kPending>
THRIFTY_DEVICE void cp_async_wait() {
  if constexpr (kPending == 0)
    asm volatile("cp.async.wait_all;" ::: "memory");
  else
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace thrifty::cuda
#endif
