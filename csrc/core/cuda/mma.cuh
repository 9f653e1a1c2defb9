// mma.sync m16n8k16: D (16 x 8, float) += A (16 x 16) B (16 x 8), T = bf16 or fp16.
//
// Fragments of lane l with g = l / 4, t = l % 4 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   a[0] = A[g][2t, 2t+1]      a[1] = A[g+8][2t, 2t+1]
//   a[2] = A[g][2t+8, 2t+9]    a[3] = A[g+8][2t+8, 2t+9]
//   b[0] = B[2t, 2t+1][g]      b[1] = B[2t+8, 2t+9][g]
//   d[0], d[1] = D[g][2t, 2t+1]    d[2], d[3] = D[g+8][2t, 2t+1]
// All 32 lanes call. ldmatrix<4> of a row-major A tile gives a[0..3]; of a row-major [n][k] tile of
// B^T it gives b[0], b[1] of two neighbouring n tiles, or with kTrans from a row-major [k][n] tile.
#pragma once

#include <type_traits>

#include "core/cuda/convert.cuh"
#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/mma.h"
#else
namespace thrifty::cuda {

template <class T>
THRIFTY_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>, "mma: bf16 or fp16");
  if constexpr (std::is_same_v<T, bf16>)
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  else
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace thrifty::cuda
#endif
