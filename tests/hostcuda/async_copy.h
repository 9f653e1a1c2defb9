// Host form of core/cuda/async_copy.cuh: poison at issue, the bytes arrive in the wait.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

template <int kBytes>
THRIFTY_HOST_OP void cp_async(void* shared_destination, const void* source, bool valid = true,
                              host::Site site = host::Site::current()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "cp.async: 4, 8 or 16 bytes");
  host::async_copy(shared_destination, source, kBytes, valid, site);
}
inline void cp_async_commit() { host::async_commit(); }
template <int kPending>
void cp_async_wait(host::Site site = host::Site::current()) {
  host::async_wait(kPending, site);
}

}  // namespace thrifty::cuda
