// The matrix product of float and double operands on the ordinary arithmetic units; no TF32.
//
// Both tiles lie depth-major in shared memory, twice: the next depth tile is read into registers
// while the last one is multiplied, and stored (transposed where the operand is depth-contiguous)
// before the barrier. A thread sums kThread x kThread elements, 4 x 4 pieces kBlock / 2 apart.
#pragma once

#include "core/cuda/block.cuh"
#include "core/product.cuh"

namespace thrifty::cuda {

constexpr int kSimtDepth = 16, kSimtThreads = 256, kSimtSide = 16;  // 16 x 16 threads

// One operand's tile on its way: staged in registers, then in shared memory.
template <class T, int kOuter, bool kDepthContiguous>
struct SimtTile {
  static constexpr int kChunk = 16 / int(sizeof(T));
  static constexpr int kStride = kOuter + kChunk;
  static constexpr int kElements = kSimtDepth * kStride;
  static constexpr int kChunksPerRow = (kDepthContiguous ? kSimtDepth : kOuter) / kChunk;
  static constexpr int kChunks = kOuter * kSimtDepth / kChunk / kSimtThreads;
  static_assert(kChunks * kChunk * kSimtThreads == kOuter * kSimtDepth);
  Vec<T, kChunk> staged[kChunks];

  static THRIFTY_DEVICE int row_of(int i) {
    return (i * kSimtThreads + int(threadIdx.x)) / kChunksPerRow;
  }
  static THRIFTY_DEVICE int column_of(int i) {
    return (i * kSimtThreads + int(threadIdx.x)) % kChunksPerRow * kChunk;
  }

  // Element c of a row of member j is multiplied by scale(j, c).
  template <class Matrix, class Scale>
  THRIFTY_DEVICE void load_tile(const Matrix& matrix, const Scale& scale, int j, int outer,
                                int depth, int depth_stop) {
    const int first_row = kDepthContiguous ? outer : depth;
    const int first_column = kDepthContiguous ? depth : outer;
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int q = first_row + row_of(i), c = first_column + column_of(i);
      const bool inside = kDepthContiguous ? matrix.has_row(j, q) : q < depth_stop;
      const int left = inside ? matrix.left(c) : 0;
      const T* const from =
          static_cast<const T*>(matrix.data) + (inside ? matrix.at(j, q) + matrix.column(c) : 0);
      if (matrix.vector >= kChunk && left > 0) {
        staged[i] = load_vec_readonly<kChunk>(from);
      } else {
#pragma unroll
        for (int e = 0; e < kChunk; ++e) staged[i][e] = e < left ? load_readonly(from + e) : T(0);
      }
#pragma unroll
      for (int e = 0; e < kChunk; ++e) {
        if (e < left) scale(staged[i][e], j, c + e);
      }
    }
  }

  THRIFTY_DEVICE void store_tile(T* tile) const {
#pragma unroll
    for (int i = 0; i < kChunks; ++i) {
      const int row = row_of(i), column = column_of(i);
      if constexpr (kDepthContiguous) {
#pragma unroll
        for (int e = 0; e < kChunk; ++e) tile[(column + e) * kStride + row] = staged[i][e];
      } else {
        store_vec(tile + row * kStride + column, staged[i]);
      }
    }
  }
};

template <class T, int kThread>
struct SimtSums {
  static constexpr int kRows = kThread, kColumns = kThread, kAdjacent = 16 / int(sizeof(T));
  static constexpr int kRowGroups = kSimtSide;
  T d[kThread][kThread] = {};

  THRIFTY_DEVICE T& operator()(int i, int j) { return d[i][j]; }
  static THRIFTY_DEVICE int row(int i) { return i / 4 * (4 * kSimtSide) + row_group() * 4 + i % 4; }
  static THRIFTY_DEVICE int column(int j) {
    return j / 4 * (4 * kSimtSide) + int(threadIdx.x) % kSimtSide * 4 + j % 4;
  }
  static THRIFTY_DEVICE int row_group() { return int(threadIdx.x) / kSimtSide; }
  static THRIFTY_DEVICE T fold(T value) { return value; }
  static THRIFTY_DEVICE bool holds_fold() { return true; }
};

template <class T_, int kThread, bool kDepthA, bool kDepthB>
struct SimtProduct {
  using T = T_;
  using A = T;
  using Sums = SimtSums<T, kThread>;
  static constexpr int kThreads = kSimtThreads;
  // Two blocks a multiprocessor leave 128 registers a thread: too few for 64 floats of sums.
  static constexpr int kBlocksPerSm = sizeof(Sums) > 64 ? 1 : 2;
  static constexpr int kM = kSimtSide * kThread, kN = kM;
  using TileA = SimtTile<T, kM, kDepthA>;
  using TileB = SimtTile<T, kN, kDepthB>;
  static constexpr int kStage = TileA::kElements + TileB::kElements;
  static constexpr int kSharedBytes = 2 * kStage * int(sizeof(T));

  // As HalfProduct::run.
  template <bool kScaled, class Product, class MemberDone>
  static THRIFTY_DEVICE void run(const Product& p, const Place& place, unsigned char* shared,
                                 Sums& sums, const MemberDone& member_done) {
    T* const stages = reinterpret_cast<T*>(shared);
    TileA a;
    TileB b;
    const auto load_stage = [&](const DepthTile& tile) {
      const int stop = depth_stop(p, place, tile.member);
      const auto none = [](T&, int, int) {};
      const auto scaled = [&](T& value, int j, int c) {
        if constexpr (kScaled) {
          if (p.scale.data != nullptr) value *= load<T>(p.scale, j, c);
        }
      };
      a.load_tile(p.a, scaled, tile.member, place.m, tile.depth, stop);
      b.load_tile(p.b, none, tile.member, place.n, tile.depth, stop);
    };
    const auto store = [&](int stage) {
      a.store_tile(stages + stage * kStage);
      b.store_tile(stages + stage * kStage + TileA::kElements);
    };
    DepthTile tile{place.member, place.depth};
    int use = 0;
    if (tile.member < place.member_end) {
      load_stage(tile);
      store(use);
    }
    syncthreads();
    while (tile.member < place.member_end) {
      const DepthTile next = tile.next(p, place, kSimtDepth);
      const bool more = next.member < place.member_end;
      if (more) load_stage(next);
      multiply(stages + use * kStage, sums);
      use ^= 1;
      if (more) store(use);
      if (next.member != tile.member) member_done(tile.member);
      syncthreads();
      tile = next;
    }
  }

 private:
  static THRIFTY_DEVICE void multiply(const T* stage, Sums& sums) {
    constexpr int kChunk = TileA::kChunk;
#pragma unroll
    for (int depth = 0; depth < kSimtDepth; ++depth) {
      T a[kThread], b[kThread];
      const T* const row_a = stage + depth * TileA::kStride;
      const T* const row_b = stage + TileA::kElements + depth * TileB::kStride;
#pragma unroll
      for (int i = 0; i < kThread; i += kChunk) {
        const Vec<T, kChunk> va = load_vec<kChunk>(row_a + Sums::row(i));
        const Vec<T, kChunk> vb = load_vec<kChunk>(row_b + Sums::column(i));
#pragma unroll
        for (int e = 0; e < kChunk; ++e) a[i + e] = va[e], b[i + e] = vb[e];
      }
#pragma unroll
      for (int i = 0; i < kThread; ++i) {
#pragma unroll
        for (int j = 0; j < kThread; ++j) sums.d[i][j] += a[i] * b[j];
      }
    }
  }
};

// 128 x 128 and 64 x 64.
template <bool kDepthA, bool kDepthB>
using FloatLarge = SimtProduct<float, 8, kDepthA, kDepthB>;
template <bool kDepthA, bool kDepthB>
using FloatSmall = SimtProduct<float, 4, kDepthA, kDepthB>;
template <bool kDepthA, bool kDepthB>
using DoubleSmall = SimtProduct<double, 4, kDepthA, kDepthB>;

}  // namespace thrifty::cuda
