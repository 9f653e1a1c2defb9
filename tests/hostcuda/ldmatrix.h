// Host form of core/cuda/ldmatrix.cuh.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {
void ldmatrix(uint32_t* registers, int count, bool transposed, const void* row, const Site& site);
}  // namespace host

template <int kCount, bool kTrans = false>
THRIFTY_HOST_OP void ldmatrix(uint32_t (&r)[kCount], const void* row,
                              host::Site site = host::Site::current()) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix: 1, 2 or 4 matrices");
  host::ldmatrix(r, kCount, kTrans, row, site);
}

}  // namespace thrifty::cuda
