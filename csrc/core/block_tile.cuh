// The sums of a block as a tile of shared memory, so that what follows a product can walk along
// rows: whatever the fragments of the product look like, results are stored in full lines.
#pragma once

#include "core/cuda/block.cuh"
#include "core/product.cuh"

namespace thrifty::cuda {

// Padding of 8 keeps the fragments' stores, rows 8 (mod 32) words apart, free of bank conflicts.
template <class P>
struct BlockTile {
  using A = typename P::A;
  static constexpr int kStride = P::kN + 8;
  static constexpr int kBytes = P::kM * kStride * int(sizeof(A));
  A* data;

  // Shared memory is free before, and the tile is complete after.
  THRIFTY_DEVICE BlockTile(unsigned char* shared, typename P::Sums& sums)
      : data(reinterpret_cast<A*>(shared)) {
    constexpr int kAdjacent = P::Sums::kAdjacent;
#pragma unroll
    for (int i = 0; i < P::Sums::kRows; ++i) {
#pragma unroll
      for (int j = 0; j < P::Sums::kColumns; j += kAdjacent) {
        Vec<A, kAdjacent> piece;
#pragma unroll
        for (int e = 0; e < kAdjacent; ++e) piece[e] = sums(i, j + e);
        store_vec(data + P::Sums::row(i) * kStride + P::Sums::column(j), piece);
      }
    }
    syncthreads();
  }

  // The part of the tile that lies in rows [0, rows) and columns [0, columns) to `out`, rounded to
  // Out. With `vector`, as many elements as one 16-byte load holds may be one store.
  template <class Out, class RowAddress>
  THRIFTY_DEVICE void store(Out* out, const RowAddress& at, int j, const Place& place, int rows,
                            int columns, bool vector) const {
    constexpr int kChunk = 16 / int(sizeof(A)), kChunksPerRow = P::kN / kChunk;
    for (int i = int(threadIdx.x); i < P::kM * kChunksPerRow; i += P::kThreads) {
      const int row = i / kChunksPerRow, column = i % kChunksPerRow * kChunk;
      const int q = place.m + row, c = place.n + column;
      if (q >= rows || c >= columns) continue;
      const Vec<A, kChunk> sum = load_vec<kChunk>(data + row * kStride + column);
      Vec<Out, kChunk> value;
#pragma unroll
      for (int e = 0; e < kChunk; ++e) value[e] = from_float<Out>(sum[e]);
      Out* const to = out + at(j, q) + c;
      if (vector && c + kChunk <= columns) {
        store_vec(to, value);
      } else {
#pragma unroll
        for (int e = 0; e < kChunk; ++e) {
          if (c + e < columns) to[e] = value[e];
        }
      }
    }
  }
};

}  // namespace thrifty::cuda
