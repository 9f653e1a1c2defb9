// A square of vectors transposed in registers, for `*_isa.cpp` files only.
#pragma once

#include "core/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

// Swaps the off-diagonal quarters of the square's 2D x 2D blocks; D = lanes / 2, ..., 2, 1 is the
// whole transposition. Down to D = 2 a step is one instruction for two rows' halves; D = 1 of
// 32-bit lanes would be two, so it and D = 2 are done by transpose_quads instead.
template <class T, int D>
THRIFTY_INLINE void transpose_stage(UVec<T>* rows) {
  using Word = typename IntOf<T>::utype;
  constexpr int kCount = kLanes<T>;
  UVec<T> low{}, high{};
  for (int l = 0; l < kCount; ++l) {
    low[l] = Word(l & D ? kCount + l - D : l);
    high[l] = Word(l & D ? kCount + l : l + D);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    if (i & D) continue;
    const UVec<T> a = rows[i], b = rows[i + D];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + D] = __builtin_shuffle(a, b, high);
  }
  if constexpr (D > (sizeof(T) == 4 ? 4 : 1)) transpose_stage<T, D / 2>(rows);
}

// Transposes the 4 x 4 blocks of 32-bit lanes: x86 interleaves lanes, then pairs of lanes, inside
// 16 bytes by one instruction each.
THRIFTY_INLINE void transpose_quads(UVec<float>* rows) {
  constexpr int kCount = kLanes<float>;
  UVec<float> lanes[2]{}, pairs[2]{};
  for (int l = 0; l < kCount; ++l) {
    const int quad = l & ~3, inside = l & 3;
    for (int half = 0; half < 2; ++half) {
      lanes[half][l] = uint32_t((inside & 1 ? kCount : 0) + quad + 2 * half + inside / 2);
      pairs[half][l] = uint32_t((inside & 2 ? kCount : 0) + quad + 2 * half + inside % 2);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kCount; i += 4) {
    const UVec<float> low01 = __builtin_shuffle(rows[i], rows[i + 1], lanes[0]);
    const UVec<float> high01 = __builtin_shuffle(rows[i], rows[i + 1], lanes[1]);
    const UVec<float> low23 = __builtin_shuffle(rows[i + 2], rows[i + 3], lanes[0]);
    const UVec<float> high23 = __builtin_shuffle(rows[i + 2], rows[i + 3], lanes[1]);
    rows[i] = __builtin_shuffle(low01, low23, pairs[0]);
    rows[i + 1] = __builtin_shuffle(low01, low23, pairs[1]);
    rows[i + 2] = __builtin_shuffle(high01, high23, pairs[0]);
    rows[i + 3] = __builtin_shuffle(high01, high23, pairs[1]);
  }
}

// rows[i][j] and rows[j][i] change places, for i, j below the lanes of Vec<T>.
template <class T>
THRIFTY_INLINE void transpose(UVec<T>* rows) {
  constexpr int kFirst = kLanes<T> / 2;
  if constexpr (sizeof(T) == 8 || kFirst >= 4) transpose_stage<T, kFirst>(rows);
  if constexpr (sizeof(T) == 4) transpose_quads(rows);
}

template <class T>
THRIFTY_INLINE void transpose(Vec<T>* rows) {
  UVec<T> bits[kLanes<T>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) bits[i] = UVec<T>(rows[i]);
  transpose<T>(bits);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<T>; ++i) rows[i] = Vec<T>(bits[i]);
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
