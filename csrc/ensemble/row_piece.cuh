// The elementwise half of a layer, eight elements of a row at a time:
//
//   forward    y = s z + b       out = m act(y) r'
//   backward   dy = G r' m act'(y)
//
// A thread has the columns first + i + 16 w, i < 2, w < 4, where first is even and first % 64 < 16:
// exactly the elements for which two counters of Philox give all four words (philox.h,
// dropout_place). Element e = 2 w + i of a piece.
#pragma once

#include "ensemble/activation.cuh"
#include "ensemble/operands.cuh"

namespace thrifty::ensemble::cuda {

constexpr int kPiece = 8;
constexpr int kPiecesPerGroup = 8;  // of 64 columns
constexpr int kGroupColumns = 64;

// Column, in its group of 64, of a piece's first element.
THRIFTY_DEVICE int piece_first(int piece) { return piece * 2; }
THRIFTY_DEVICE int piece_offset(int e) { return e / 2 * 16 + e % 2; }

struct DropoutArgs {
  const int64_t* seed = nullptr;  // (seed, offset), on the device
  int64_t stride = 1;
  uint32_t threshold = 0;  // 0: nothing is dropped
  double scale = 1;
};

// What the rows of a layer are combined with; `width` columns.
struct RowArgs {
  Vector s, bias, r_next;
  Activation activation = Activation::kNone;
  DropoutArgs dropout;
  RowAddress number;  // of the row, for the dropout mask
  RowAddress at;      // rows of out, z, grad, dz
  RowCount rows;
  int width = 0;
  bool pairs = false;  // two neighbouring columns may be one access
};

// The vectors' values at the columns of one piece; absent ones are 1 and 0.
template <class T>
struct PieceVectors {
  using A = Sum<T>;
  A s[kPiece], bias[kPiece], r_next[kPiece];

  THRIFTY_DEVICE PieceVectors(const RowArgs& args, int j, int first) {
#pragma unroll
    for (int e = 0; e < kPiece; ++e) {
      const int column = first + piece_offset(e);
      const bool inside = column < args.width;
      s[e] = args.s.data && inside ? load<T>(args.s, j, column) : A(1);
      bias[e] = args.bias.data && inside ? load<T>(args.bias, j, column) : A(0);
      r_next[e] = args.r_next.data && inside ? load<T>(args.r_next, j, column) : A(1);
    }
  }
};

// The mask of a piece: 0 or 1 / (1 - p).
struct PieceDropout {
  uint64_t seed = 0, offset = 0;
  uint32_t threshold, counter;
  double scale;

  THRIFTY_DEVICE PieceDropout(const DropoutArgs& args, int first)
      : threshold(args.threshold), counter(dropout_place(first).counter), scale(args.scale) {
    if (threshold == 0) return;
    seed = uint64_t(load_readonly(args.seed));
    offset = uint64_t(load_readonly(args.seed + args.stride));
  }

  template <class A>
  THRIFTY_DEVICE void mask(uint32_t row, A (&m)[kPiece]) const {
#pragma unroll
    for (int e = 0; e < kPiece; ++e) m[e] = A(1);
    if (threshold == 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const Philox4 draw =
          philox(seed, {{counter + uint32_t(i), row, uint32_t(offset), uint32_t(offset >> 32)}});
#pragma unroll
      for (int w = 0; w < 4; ++w) m[2 * w + i] = draw.word[w] >= threshold ? A(scale) : A(0);
    }
  }
};

// A piece of a row in memory; `left` columns of the row remain at the piece's first.
template <class T>
THRIFTY_DEVICE void load_piece(const T* from, int left, bool pairs, Sum<T> (&value)[kPiece]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int here = left - 16 * w;
    Sum<T> low = 0, high = 0;
    if (pairs && here >= 2) {
      const Vec<T, 2> pair = load_vec_readonly<2>(from + 16 * w);
      low = to_float(pair[0]), high = to_float(pair[1]);
    } else {
      if (here >= 1) low = to_float(load_readonly(from + 16 * w));
      if (here >= 2) high = to_float(load_readonly(from + 16 * w + 1));
    }
    value[2 * w] = low, value[2 * w + 1] = high;
  }
}

template <class T>
THRIFTY_DEVICE void store_piece(T* to, int left, bool pairs, const Sum<T> (&value)[kPiece]) {
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int here = left - 16 * w;
    const Vec<T, 2> pair{{from_float<T>(value[2 * w]), from_float<T>(value[2 * w + 1])}};
    if (pairs && here >= 2) {
      store_vec(to + 16 * w, pair);
    } else {
      if (here >= 1) to[16 * w] = pair[0];
      if (here >= 2) to[16 * w + 1] = pair[1];
    }
  }
}

}  // namespace thrifty::ensemble::cuda
