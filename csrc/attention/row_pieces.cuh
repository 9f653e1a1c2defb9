// A row in pieces of 16 bytes, widened to float.
#pragma once

#include "attention/plan_nodes.cuh"

namespace thrifty::attention::cuda {

template <class T>
constexpr int kPiece = 16 / int(sizeof(T));

// Columns c to c + kPiece - 1, zeros from column d on.
template <class T>
THRIFTY_DEVICE void load_piece(const T* row, int c, int d, int vector, float (&value)[kPiece<T>]) {
  if (vector == kPiece<T> && c < d) {
    const Vec<T, kPiece<T>> piece = load_vec_readonly<kPiece<T>>(row + c);
#pragma unroll
    for (int e = 0; e < kPiece<T>; ++e) value[e] = to_float(piece[e]);
  } else {
#pragma unroll
    for (int e = 0; e < kPiece<T>; ++e) {
      value[e] = c + e < d ? to_float(load_readonly(row + c + e)) : 0.0f;
    }
  }
}

}  // namespace thrifty::attention::cuda
