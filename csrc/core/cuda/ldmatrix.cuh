// ldmatrix: kCount (1, 2 or 4) matrices of 8 x 8 16-bit elements from shared memory to fragments.
//
// Lane l passes the address of row l % 8 of matrix l / 8: 16 bytes, on 16 bytes. Register i then
// holds of matrix i the elements (row l / 4, columns 2 (l % 4) and 2 (l % 4) + 1), with kTrans
// those of its transpose. The addresses of lanes 8 kCount and above are not used; all 32 lanes
// call.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/ldmatrix.h"
#else
#include <cute/arch/copy_sm75.hpp>

namespace thrifty::cuda {

template <int kCount, bool kTrans = false>
THRIFTY_DEVICE void ldmatrix(uint32_t (&r)[kCount], const void* row) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix: 1, 2 or 4 matrices");
  const auto& source = *static_cast<const cute::uint128_t*>(row);
  if constexpr (kCount == 1) {
    if constexpr (kTrans)
      cute::SM75_U16x2_LDSM_T::copy(source, r[0]);
    else
      cute::SM75_U32x1_LDSM_N::copy(source, r[0]);
  } else if constexpr (kCount == 2) {
    if constexpr (kTrans)
      cute::SM75_U16x4_LDSM_T::copy(source, r[0], r[1]);
    else
      cute::SM75_U32x2_LDSM_N::copy(source, r[0], r[1]);
  } else {
    if constexpr (kTrans)
      cute::SM75_U16x8_LDSM_T::copy(source, r[0], r[1], r[2], r[3]);
    else
      cute::SM75_U32x4_LDSM_N::copy(source, r[0], r[1], r[2], r[3]);
  }
}

}  // namespace thrifty::cuda
#endif
