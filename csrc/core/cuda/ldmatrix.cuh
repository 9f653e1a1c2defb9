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
namespace thrifty::cuda {

template <int kCount, bool kTrans = false>
THRIFTY_DEVICE void ldmatrix(uint32_t (&r)[kCount], const void* row) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix: 1, 2 or 4 matrices");
  const uint32_t from = uint32_t(__cvta_generic_to_shared(row));
  if constexpr (kCount == 1) {
    if constexpr (kTrans)
      asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                   : "=r"(r[0])
                   : "r"(from));
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(from));
  } else if constexpr (kCount == 2) {
    if constexpr (kTrans)
      asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                   : "=r"(r[0]), "=r"(r[1])
                   : "r"(from));
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                   : "=r"(r[0]), "=r"(r[1])
                   : "r"(from));
  } else {
    if constexpr (kTrans)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(from));
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(from));
  }
}

}  // namespace thrifty::cuda
#endif
