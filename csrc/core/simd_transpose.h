// A square of vectors transposed in registers, for `*_isa.cpp` files only.
#pragma once

#include "core/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

// Swaps the off-diagonal quarters of the square's 2D x 2D blocks; D = lanes / 2, ..., 2, 1 is the
// whole transposition.
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
  if constexpr (D > 1) transpose_stage<T, D / 2>(rows);
}

// rows[i][j] and rows[j][i] change places, for i, j below the lanes of Vec<T>.
template <class T>
THRIFTY_INLINE void transpose(UVec<T>* rows) {
  transpose_stage<T, kLanes<T> / 2>(rows);
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
