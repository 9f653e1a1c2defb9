// The two products that attention's tiles are made of, for tensor cores and for ordinary
// arithmetic:
//
//   outer        scores[i, j] = <a_i, b_j>                  rows of two tiles in shared memory
//   accumulate   sums[i, c] += sum over j of scores[i, j] b_j[c]
//
// A tile has zeros where there is no row or column; place(row, column) is where it keeps an
// element. A thread holds scores and sums of the same rows; row(i), column(j) and dim(e) say which,
// and `across` adds or compares over the threads that share a row. kTogether rows are multiplied at
// once. They are of one warp, which is why no barrier is needed between the products.
#pragma once

#include "core/cuda/async_copy.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/ldmatrix.cuh"
#include "core/cuda/math.cuh"
#include "core/cuda/mma.cuh"
#include "core/element.cuh"

namespace thrifty::attention::cuda {

using namespace thrifty::cuda;

template <class A, int kRows_, int kColumns_>
struct Fragment {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  A d[kRows][kColumns] = {};
  THRIFTY_DEVICE A& at(int i, int j) { return d[i][j]; }
  THRIFTY_DEVICE const A& at(int i, int j) const { return d[i][j]; }
};

// Two values of a B fragment, of finite ones (kind 0), or ones where there is a NaN (1), infinity
// (2) or its negative (3). `found` has the answer in the signs' places: a sum without the signs
// carries there, if and only if it reaches 2^15.
template <class T>
THRIFTY_DEVICE uint32_t of_kind(uint32_t bits, int kind) {
  constexpr uint32_t kSigns = 0x80008000, kRest = ~kSigns;
  constexpr uint32_t kInfinity = std::is_same_v<T, bf16> ? 0x7f807f80 : 0x7c007c00;
  constexpr uint32_t kOne = std::is_same_v<T, bf16> ? 0x3f80 : 0x3c00;
  if (kind == 0) {
    const uint32_t found = (bits & kRest) + (kSigns - kInfinity);
    return bits & ~(((found & kSigns) >> 15) * 0xffff);
  }
  uint32_t found = (bits & kRest) + (kRest - kInfinity);
  if (kind > 1) {
    const uint32_t other = bits ^ (kind == 2 ? kInfinity : kInfinity | kSigns);
    found = ~(((other & kRest) + kRest) | other);
  }
  return ((found & kSigns) >> 15) * kOne;
}

// `accumulate` of 16-bit tiles where b has values that are not finite, which rows of score 0 must
// not see: those values are multiplied as zeros, and rows with a score get what they would make of
// any sum.
template <class Tile, int kDims, class Sums, class Scores>
THRIFTY_DEVICE void accumulate_kinds(Sums& sums, const Scores& s, const typename Tile::T* b,
                                     int dims) {
  using T = typename Tile::T;
  constexpr int kSteps = Tile::kColumns / 16;
#pragma unroll 1
  for (int kind = 0; kind < 4; ++kind) {
    const float value = kind == 1 ? NAN : kind == 2 ? INFINITY : -INFINITY;
    uint32_t fa[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      Tile::fragments(fa[step], s, step, [&](float p) { return kind == 0 || p == 0 ? p : 1.0f; });
    }
#pragma unroll
    for (int pair = 0; pair < kDims / 16; ++pair) {
      if (pair * 16 < dims) {
        float seen[2][4] = {};
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          uint32_t fb[4];
          Tile::b_fragments(fb, b, step, pair * 16);
#pragma unroll
          for (int i = 0; i < 4; ++i) fb[i] = of_kind<T>(fb[i], kind);
          mma_m16n8k16<T>(seen[0], fa[step], fb[0], fb[2]);
          mma_m16n8k16<T>(seen[1], fa[step], fb[1], fb[3]);
        }
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float found = seen[i / 4][i % 4];
          float& sum = sums.at(i / 2 % 2, pair * 4 + i / 4 * 2 + i % 2);
          sum += kind == 0 ? found : found != 0 ? value : 0.0f;
        }
      }
    }
  }
}

// bf16 and fp16 by mma.sync: a warp has 16 rows.
template <class T_, int kWarps, int kWidth_>
struct HalfTile {
  using T = T_;
  using A = float;
  static constexpr int kThreads = kWarps * kWarpSize, kRows = 16 * kWarps, kColumns = 64;
  static constexpr int kTogether = 16;
  static constexpr int kWidth = kWidth_, kLd = kWidth + 8;
  static constexpr int kScratch = 0;  // elements of shared memory that accumulate needs
  static constexpr int kHeld = 2, kHeldColumns = kColumns / 4, kAdjacent = 2;
  static constexpr int kSlice = kWidth <= 128 ? kWidth : 64;  // two such sums fit into registers
  using Scores = Fragment<A, kHeld, kHeldColumns>;
  template <int kDims>
  using Sums = Fragment<A, kHeld, kDims / 4>;

  template <int kTileRows>
  static THRIFTY_DEVICE int place(int row, int column) {
    return row * kLd + column;
  }
  static THRIFTY_DEVICE int row(int i) { return warp_index() * 16 + i * 8 + lane_index() / 4; }
  static THRIFTY_DEVICE int column(int j) { return j / 2 * 8 + lane_index() % 4 * 2 + j % 2; }
  static THRIFTY_DEVICE int dim(int e) { return column(e); }
  static THRIFTY_DEVICE bool leads() { return lane_index() % 4 == 0; }
  template <class Combine>
  static THRIFTY_DEVICE A across(A value, const Combine& combine) {
    value = combine(value, shfl_xor(value, 1));
    return combine(value, shfl_xor(value, 2));
  }

  static THRIFTY_DEVICE void outer(Scores& s, const T* a, const T* b, int depth) {
    float d[8][4] = {};
    const T* const a_row =
        a + (warp_index() * 16 + lane_index() % 16) * kLd + lane_index() / 16 * 8;
    const T* const b_row = b + lane_index() % 16 * kLd + lane_index() / 16 * 8;
#pragma unroll
    for (int step = 0; step < kWidth / 16; ++step) {
      if (step * 16 < depth) {
        uint32_t fa[4];
        ldmatrix<4>(fa, a_row + step * 16);
#pragma unroll
        for (int pair = 0; pair < kColumns / 16; ++pair) {
          uint32_t fb[4];
          ldmatrix<4>(fb, b_row + pair * 16 * kLd + step * 16);
          mma_m16n8k16<T>(d[2 * pair], fa, fb[0], fb[2]);
          mma_m16n8k16<T>(d[2 * pair + 1], fa, fb[1], fb[3]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kHeldColumns; ++j) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) s.d[i][j] = d[j / 2][i * 2 + j % 2];
    }
  }

  // Scores as A fragments of columns 16 step to 16 step + 15.
  template <class Scores, class Value>
  static THRIFTY_DEVICE void fragments(uint32_t (&f)[4], const Scores& s, int step,
                                       const Value& value) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int j = step * 4 + i / 2 * 2;
      f[i] = pack2_from_float<T>(value(s.at(i % 2, j)), value(s.at(i % 2, j + 1)));
    }
  }
  static THRIFTY_DEVICE void b_fragments(uint32_t (&f)[4], const T* b, int step, int first) {
    const int lane = lane_index();
    ldmatrix<4, true>(f,
                      b + (step * 16 + lane / 16 * 8 + lane % 8) * kLd + first + lane / 8 % 2 * 8);
  }
  template <int kDims>
  static THRIFTY_DEVICE void multiply(Sums<kDims>& sums, int pair, const uint32_t (&fa)[4],
                                      const uint32_t (&fb)[4]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int e = pair * 4 + half * 2;
      float d[4] = {sums.d[0][e], sums.d[0][e + 1], sums.d[1][e], sums.d[1][e + 1]};
      mma_m16n8k16<T>(d, fa, fb[half], fb[half + 2]);
      sums.d[0][e] = d[0], sums.d[0][e + 1] = d[1], sums.d[1][e] = d[2], sums.d[1][e + 1] = d[3];
    }
  }

  template <int kDims>
  static THRIFTY_DEVICE void accumulate(Sums<kDims>& sums, const Scores& s, const T* b, int dims,
                                        T*) {
#pragma unroll
    for (int step = 0; step < kColumns / 16; ++step) {
      uint32_t fa[4];
      fragments(fa, s, step, [](A value) { return value; });
#pragma unroll
      for (int pair = 0; pair < kDims / 16; ++pair) {
        if (pair * 16 < dims) {
          uint32_t fb[4];
          b_fragments(fb, b, step, pair * 16);
          multiply<kDims>(sums, pair, fa, fb);
        }
      }
    }
  }

  template <int kDims>
  static THRIFTY_DEVICE void accumulate_sparse(Sums<kDims>& sums, const Scores& s, const T* b,
                                               int dims, T*) {
    accumulate_kinds<HalfTile, kDims>(sums, s, b, dims);
  }
};

// float and double: 16 x 16 threads, those of a row in one half of a warp.
template <class T_, int kRows_, int kColumns_, int kWidth_>
struct SimtTile {
  using T = T_;
  using A = T;
  static constexpr int kThreads = 256, kRows = kRows_, kColumns = kColumns_, kWidth = kWidth_;
  static constexpr int kAdjacent = 16 / int(sizeof(T));
  static constexpr int kLd = kWidth + kAdjacent, kScoreLd = kColumns + kAdjacent;
  static constexpr int kScratch = kRows * kScoreLd;
  static constexpr int kHeld = kRows / 16, kHeldColumns = kColumns / 16, kSlice = kWidth;
  static constexpr int kTogether = 2 * kHeld;
  using Scores = Fragment<A, kHeld, kHeldColumns>;
  template <int kDims>
  using Sums = Fragment<A, kHeld, kDims / 16>;

  template <int kTileRows>
  static THRIFTY_DEVICE int place(int row, int column) {
    return row * kLd + column;
  }
  static THRIFTY_DEVICE int side() { return int(threadIdx.x) % 16; }
  static THRIFTY_DEVICE int row(int i) { return int(threadIdx.x) / 16 * kHeld + i; }
  static THRIFTY_DEVICE int column(int j) { return side() + 16 * j; }
  static THRIFTY_DEVICE int dim(int e) {
    return e / kAdjacent * (16 * kAdjacent) + side() * kAdjacent + e % kAdjacent;
  }
  static THRIFTY_DEVICE bool leads() { return side() == 0; }
  template <class Combine>
  static THRIFTY_DEVICE A across(A value, const Combine& combine) {
#pragma unroll
    for (int bits = 1; bits < 16; bits *= 2) value = combine(value, shfl_xor(value, bits));
    return value;
  }

  static THRIFTY_DEVICE void outer(Scores& s, const T* a, const T* b, int depth) {
    s = Scores();
#pragma unroll 2
    for (int at = 0; at < depth; at += kAdjacent) {
      Vec<T, kAdjacent> fa[kHeld], fb[kHeldColumns];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) fa[i] = load_vec<kAdjacent>(a + row(i) * kLd + at);
#pragma unroll
      for (int j = 0; j < kHeldColumns; ++j) fb[j] = load_vec<kAdjacent>(b + column(j) * kLd + at);
#pragma unroll
      for (int e = 0; e < kAdjacent; ++e) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
#pragma unroll
          for (int j = 0; j < kHeldColumns; ++j) s.d[i][j] += fa[i][e] * fb[j][e];
        }
      }
    }
  }

  // Scores pass through `scratch`, where each row is one half-warp's.
  template <bool kSparse, int kDims>
  static THRIFTY_DEVICE void add(Sums<kDims>& sums, const Scores& s, const T* b, int dims,
                                 T* scratch) {
    syncwarp();
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
#pragma unroll
      for (int j = 0; j < kHeldColumns; ++j) scratch[row(i) * kScoreLd + column(j)] = s.d[i][j];
    }
    syncwarp();
#pragma unroll 2
    for (int column = 0; column < kColumns; ++column) {
      A score[kHeld];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) score[i] = scratch[row(i) * kScoreLd + column];
#pragma unroll
      for (int e = 0; e < kDims / 16; e += kAdjacent) {
        if (e * 16 >= dims) continue;
        const Vec<T, kAdjacent> value = load_vec<kAdjacent>(b + column * kLd + dim(e));
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
#pragma unroll
          for (int n = 0; n < kAdjacent; ++n) {
            if (!kSparse || score[i] != 0) sums.d[i][e + n] += score[i] * value[n];
          }
        }
      }
    }
  }
  template <int kDims>
  static THRIFTY_DEVICE void accumulate(Sums<kDims>& sums, const Scores& s, const T* b, int dims,
                                        T* scratch) {
    add<false, kDims>(sums, s, b, dims, scratch);
  }
  template <int kDims>
  static THRIFTY_DEVICE void accumulate_sparse(Sums<kDims>& sums, const Scores& s, const T* b,
                                               int dims, T* scratch) {
    add<true, kDims>(sums, s, b, dims, scratch);
  }
};

template <int kBytes, class T>
THRIFTY_DEVICE void copy_pieces(T* to, const T* from, int left) {
  constexpr int kPiece = kBytes / int(sizeof(T));
#pragma unroll
  for (int i = 0; i < 16 / int(sizeof(T)); i += kPiece) {
    const bool inside = left > i;
    cp_async<kBytes>(to + i, inside ? from + i : from, inside);
  }
}

// 16 bytes of a row, zeros from `left` on.
template <class T>
THRIFTY_DEVICE void copy_row(T* to, const T* from, int left, int bytes) {
  constexpr int kChunk = 16 / int(sizeof(T));
  if (bytes == 16) return copy_pieces<16>(to, from, left);
  if (bytes == 8) return copy_pieces<8>(to, from, left);
  if constexpr (sizeof(T) <= 4) {
    if (bytes == 4) return copy_pieces<4>(to, from, left);
  }
  Vec<T, kChunk> chunk;
#pragma unroll
  for (int i = 0; i < kChunk; ++i)
    chunk[i] = i < left ? load_readonly(from + i) : from_float<T>(0.0f);
  store_vec(to, chunk);
}

// kRows rows of a tile, `width` columns of each; at(i) is where row i begins, or null. `bytes` may
// be one access; `base` is any address. A commit and a wait of cp.async cover it.
template <class Tile, int kRows, class At>
THRIFTY_DEVICE void load_tile(typename Tile::T* tile, const void* base, int width, int bytes,
                              const At& at) {
  using T = typename Tile::T;
  constexpr int kChunk = 16 / int(sizeof(T)), kPerRow = Tile::kWidth / kChunk;
  static_assert(kRows * kPerRow % Tile::kThreads == 0 || kRows * kPerRow < Tile::kThreads);
#pragma unroll 4
  for (int i = int(threadIdx.x); i < kRows * kPerRow; i += Tile::kThreads) {
    const int row = i / kPerRow, column = i % kPerRow * kChunk;
    const T* const from = at(row);
    const int left = from == nullptr ? 0 : width - column;
    copy_row(tile + Tile::template place<kRows>(row, column),
             left > 0 ? from + column : static_cast<const T*>(base), left, bytes);
  }
}

// Whether 16 bytes of T are finite values. In 16 bits, adding to the exponent's last bit carries
// into the sign's place if and only if all bits of the exponent are set.
template <class T>
THRIFTY_DEVICE bool finite_chunk(const T* from) {
  const Vec<T, 16 / int(sizeof(T))> chunk = load_vec<16 / int(sizeof(T))>(from);
  if constexpr (sizeof(T) == 2) {
    constexpr uint32_t kLast = std::is_same_v<T, bf16> ? 0x00800080 : 0x04000400;
    uint32_t carried = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      carried |= (pack2(chunk[2 * e], chunk[2 * e + 1]) & 0x7fff7fff) + kLast;
    }
    return (carried & 0x80008000) == 0;
  } else {
    bool finite = true;
#pragma unroll
    for (int e = 0; e < 16 / int(sizeof(T)); ++e) finite = finite && chunk[e] - chunk[e] == 0;
    return finite;
  }
}

// Whether all that this thread has loaded of a tile is finite.
template <class Tile, int kRows>
THRIFTY_DEVICE bool loaded_finite(const typename Tile::T* tile) {
  constexpr int kChunk = 16 / int(sizeof(typename Tile::T)), kPerRow = Tile::kWidth / kChunk;
  bool finite = true;
#pragma unroll 4
  for (int i = int(threadIdx.x); i < kRows * kPerRow; i += Tile::kThreads) {
    const int row = i / kPerRow, column = i % kPerRow * kChunk;
    finite = finite_chunk(tile + Tile::template place<kRows>(row, column)) && finite;
  }
  return finite;
}

}  // namespace thrifty::attention::cuda
