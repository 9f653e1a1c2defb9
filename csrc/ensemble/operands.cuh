// How the kernels of the ensemble layers find their data: rows per member, vectors per member.
//
// A matrix is a set of rows for each member, wherever the layout (B, k, d), (rows, d), (B, d) or
// (k, in, out) puts them, so one product serves them all and no row is ever moved. All of it is
// plain data, filled by linear_cuda.cu and passed to kernels by value.
#pragma once

#include "core/philox.h"
#include "core/product.cuh"
#include "ensemble/rows.h"

namespace thrifty::ensemble::cuda {

using namespace thrifty::cuda;

// Where row q of member j begins: (q / group) outer + (q % group) inner + j member.
//
// Offsets are 64-bit everywhere. Rows, columns and members are counted in 32 bits, which halves the
// registers that addresses take; linear_cuda.cu refuses what does not fit.
struct RowAddress {
  int64_t outer = 0, member = 0, inner = 0;
  int group = 1;

  THRIFTY_HOST_DEVICE int64_t operator()(int j, int q) const {
    if (group == 1) return q * outer + j * member;
    const int whole = q / group;
    return whole * outer + (q - whole * group) * inner + j * member;
  }
};

// How many rows member j has: of an incomplete last cycle of groups, the first members have more.
struct RowCount {
  int full = 0, members = 0, rest = 0,
      group = 1;  // `members` have `group` rows more, one has `rest`

  THRIFTY_HOST_DEVICE int of(int j) const {
    return full + (j < members ? group : j == members ? rest : 0);
  }
};

// An operand of core/product.cuh.
struct Matrix {
  const void* data = nullptr;
  RowAddress at;
  RowCount rows;
  int width = 0;   // of a row
  int vector = 1;  // elements that one access may take: addresses, strides, width divide by it

  THRIFTY_DEVICE bool has_row(int j, int q) const { return q < rows.of(j); }
  THRIFTY_DEVICE int left(int c) const { return width - c; }
  THRIFTY_DEVICE int column(int c) const { return c; }
};

// Element c of member j at j member + c; absent when data is null.
struct Vector {
  const void* data = nullptr;
  int64_t member = 0;
  bool wide = false;  // float32 beside 16-bit storage
};

template <class T>
THRIFTY_DEVICE Sum<T> load(const Vector& vector, int j, int c) {
  const int64_t at = j * vector.member + c;
  if constexpr (sizeof(T) == 2) {
    if (vector.wide) return load_readonly(static_cast<const float*>(vector.data) + at);
  }
  return to_float(load_readonly(static_cast<const T*>(vector.data) + at));
}

// One product A B^T per member, summed over members where the block's place says so:
//   A[m][depth] (scale[depth]) B[n][depth]
// An operand lies depth-contiguous (rows are m or n, columns are the depth) or outer-contiguous
// (rows are the depth); which of them is part of the kernel's type.
struct Product {
  Matrix a, b;
  RowCount depth;
  Vector scale;
};

THRIFTY_DEVICE int depth_stop(const Product& product, const Place& place, int member) {
  const int count = product.depth.of(member);
  return count < place.depth_end ? count : place.depth_end;
}

}  // namespace thrifty::ensemble::cuda
