// The matrix product of bf16 and fp16 operands on tensor cores: mma.sync m16n8k16, float sums.
//
// Tiles of both operands pass through some stages of shared memory, filled by cp.async while
// earlier ones are multiplied. A tile keeps the operand's own order (depth- or outer-contiguous);
// ldmatrix, transposing or not, makes the same fragments of both. Rows are padded by 16 bytes, so
// that the eight rows of an 8 x 8 matrix lie in different banks.
#pragma once

#include "core/cuda/async_copy.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/ldmatrix.cuh"
#include "core/cuda/mma.cuh"
#include "core/product.cuh"

namespace thrifty::cuda {

constexpr int kHalfDepth = 32;

// Eight elements of a row into shared memory, zeros from `left` on. Widths are multiples of
// matrix.vector, so a piece of that size is inside as a whole or not at all.
template <class T>
THRIFTY_DEVICE void copy_chunk(T* to, const T* from, int left, int vector) {
  switch (vector) {
    case 8: return cp_async<16>(to, from, left > 0);
    case 4:
#pragma unroll
      for (int i = 0; i < 8; i += 4) cp_async<8>(to + i, from + i, left > i);
      return;
    case 2:
#pragma unroll
      for (int i = 0; i < 8; i += 2) cp_async<4>(to + i, from + i, left > i);
      return;
    default: {
      Vec<T, 8> chunk;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        chunk[i] = left > i ? load_readonly(from + i) : from_float<T>(0.0f);
      }
      store_vec(to, chunk);
    }
  }
}

// The tile of one operand in shared memory: kOuter of its m or n by kHalfDepth.
template <class T, int kOuter, bool kDepthContiguous, int kThreads>
struct HalfTile {
  static constexpr int kRows = kDepthContiguous ? kOuter : kHalfDepth;
  static constexpr int kColumns = kDepthContiguous ? kHalfDepth : kOuter;
  static constexpr int kStride = kColumns + 8;
  static constexpr int kElements = kRows * kStride;
  static constexpr int kChunksPerRow = kColumns / 8;
  static constexpr int kChunks = kRows * kChunksPerRow;

  template <class Matrix>
  static THRIFTY_DEVICE void load(T* tile, const Matrix& matrix, int j, int outer, int depth,
                                  int depth_stop) {
    const T* data = static_cast<const T*>(matrix.data);
    const int first_row = kDepthContiguous ? outer : depth;
    const int first_column = kDepthContiguous ? depth : outer;
#pragma unroll
    for (int i = 0; i < (kChunks + kThreads - 1) / kThreads; ++i) {
      const int chunk = i * kThreads + int(threadIdx.x);
      if (kChunks % kThreads != 0 && chunk >= kChunks) break;
      const int row = chunk / kChunksPerRow, column = chunk % kChunksPerRow * 8;
      const int q = first_row + row, c = first_column + column;
      const bool inside = kDepthContiguous ? matrix.has_row(j, q) : q < depth_stop;
      const T* const from = data + (inside ? matrix.at(j, q) + matrix.column(c) : 0);
      copy_chunk(tile + row * kStride + column, from, inside ? matrix.left(c) : 0, matrix.vector);
    }
  }

  // The four 8 x 8 matrices of a 16 x 16 block: outer 0-7 and 8-15 of depths 0-7, then of 8-15.
  static THRIFTY_DEVICE void fragment(uint32_t (&f)[4], const T* tile, int outer, int depth) {
    const int lane = lane_index();
    if constexpr (kDepthContiguous) {
      ldmatrix<4>(f, tile + (outer + lane % 16) * kStride + depth + lane / 16 * 8);
    } else {
      ldmatrix<4, true>(
          f, tile + (depth + lane / 16 * 8 + lane % 8) * kStride + outer + lane / 8 % 2 * 8);
    }
  }
};

// The sums of one thread of a tensor-core block: kBlocks blocks of 16 rows by 64 columns a warp.
template <int kWarpsM, int kWarpsN, int kBlocks>
struct HalfSums {
  static constexpr int kRows = 2 * kBlocks, kColumns = 16, kAdjacent = 2;
  static constexpr int kRowGroups = 4 * kWarpsM;  // sums of a column, after `fold`
  float d[kBlocks][8][4] = {};

  THRIFTY_DEVICE float& operator()(int i, int j) { return d[i / 2][j / 2][i % 2 * 2 + j % 2]; }
  static THRIFTY_DEVICE int row(int i) {
    return warp_m() * (16 * kBlocks) + i * 8 + lane_index() / 4;
  }
  static THRIFTY_DEVICE int column(int j) {
    return warp_n() * 64 + j / 2 * 8 + lane_index() % 4 * 2 + j % 2;
  }
  static THRIFTY_DEVICE int row_group() { return warp_m() * 4 + lane_index() / 4 % 4; }
  // Adds the values of lanes that hold other rows of the same column; lanes below 16 have the sum.
  static THRIFTY_DEVICE float fold(float value) { return value + shfl_xor(value, 16); }
  static THRIFTY_DEVICE bool holds_fold() { return lane_index() < 16; }
  static THRIFTY_DEVICE int warp_m() { return warp_index() / kWarpsN; }
  static THRIFTY_DEVICE int warp_n() { return warp_index() % kWarpsN; }
};

// The scale of one tile's depths as the fragments of A need it.
struct HalfScale {
  float value[kHalfDepth / 16][4];

  template <class T, class Product>
  THRIFTY_DEVICE void load_tile(const Product& p, const DepthTile& tile) {
#pragma unroll
    for (int step = 0; step < kHalfDepth / 16; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int depth = tile.depth + step * 16 + lane_index() % 4 * 2 + i / 2 * 8 + i % 2;
        value[step][i] = depth < p.a.width ? load<T>(p.scale, tile.member, depth) : 0.0f;
      }
    }
  }

  // u = x r, rounded to the operands' type as it would be in memory.
  template <class T>
  THRIFTY_DEVICE void apply(uint32_t (&a)[4], int step) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 x = unpack2_to_float<T>(a[i]);
      const float* r = value[step] + i / 2 * 2;
      a[i] = pack2_from_float<T>(x.x * r[0], x.y * r[1]);
    }
  }
};

template <class T_, int kWarpsM, int kWarpsN, int kBlocks, int kStages, bool kDepthA, bool kDepthB>
struct HalfProduct {
  using T = T_;
  using A = float;
  using Sums = HalfSums<kWarpsM, kWarpsN, kBlocks>;
  static constexpr int kThreads = 32 * kWarpsM * kWarpsN;
  static constexpr int kBlocksPerSm = 2;
  static constexpr int kM = 16 * kBlocks * kWarpsM, kN = 64 * kWarpsN;
  using TileA = HalfTile<T, kM, kDepthA, kThreads>;
  using TileB = HalfTile<T, kN, kDepthB, kThreads>;
  static constexpr int kStage = TileA::kElements + TileB::kElements;
  static constexpr int kSharedBytes = kStages * kStage * int(sizeof(T));

  // Adds the products of all depth tiles to `sums`, calling member_done(j) after those of member j.
  // On return shared memory is free for other uses.
  template <bool kScaled, class Product, class MemberDone>
  static THRIFTY_DEVICE void run(const Product& p, const Place& place, unsigned char* shared,
                                 Sums& sums, const MemberDone& member_done) {
    T* const stages = reinterpret_cast<T*>(shared);
    DepthTile incoming{place.member, place.depth};
    int fill = 0, use = 0;
    const auto load_stage = [&] {
      if (incoming.member < place.member_end) {
        const int stop = depth_stop(p, place, incoming.member);
        T* const stage = stages + fill * kStage;
        TileA::load(stage, p.a, incoming.member, place.m, incoming.depth, stop);
        TileB::load(stage + TileA::kElements, p.b, incoming.member, place.n, incoming.depth, stop);
        incoming = incoming.next(p, place, kHalfDepth);
      }
      cp_async_commit();
      fill = fill + 1 == kStages ? 0 : fill + 1;
    };
#pragma unroll 1
    for (int i = 0; i < kStages - 1; ++i) load_stage();

    HalfScale scale, next_scale;
    DepthTile tile{place.member, place.depth};
    if constexpr (kScaled) scale.load_tile<T>(p, tile);
    while (tile.member < place.member_end) {
      cp_async_wait<kStages - 2>();
      syncthreads();  // everybody's copies have arrived, and the stage read last is free again
      load_stage();
      const DepthTile next = tile.next(p, place, kHalfDepth);
      if constexpr (kScaled) {
        if (next.member < place.member_end) next_scale.load_tile<T>(p, next);
      }
      multiply<kScaled>(stages + use * kStage, scale, sums);
      use = use + 1 == kStages ? 0 : use + 1;
      if (next.member != tile.member) member_done(tile.member);
      tile = next;
      if (kScaled) scale = next_scale;
    }
    cp_async_wait<0>();
    syncthreads();
  }

 private:
  template <bool kScaled>
  static THRIFTY_DEVICE void multiply(const T* stage, const HalfScale& scale, Sums& sums) {
    const int m = Sums::warp_m() * 16 * kBlocks, n = Sums::warp_n() * 64;
#pragma unroll
    for (int step = 0; step < kHalfDepth / 16; ++step) {
      uint32_t a[kBlocks][4];
#pragma unroll
      for (int i = 0; i < kBlocks; ++i) {
        TileA::fragment(a[i], stage, m + 16 * i, step * 16);
        if (kScaled) scale.apply<T>(a[i], step);
      }
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t b[4];
        TileB::fragment(b, stage + TileA::kElements, n + 16 * pair, step * 16);
#pragma unroll
        for (int i = 0; i < kBlocks; ++i) {
          mma_m16n8k16<T>(sums.d[i][2 * pair], a[i], b[0], b[2]);
          mma_m16n8k16<T>(sums.d[i][2 * pair + 1], a[i], b[1], b[3]);
        }
      }
    }
  }
};

// 128 x 128 by four warps of 64 x 64, which read least from shared memory for what they multiply.
template <class T, bool kDepthA, bool kDepthB>
using HalfLarge = HalfProduct<T, 2, 2, 4, 4, kDepthA, kDepthB>;
// The same by eight warps of 32 x 64: room for a second set of sums. With three stages it fits into
// the 99 KiB of shared memory that GPUs outside data centers have.
template <class T, bool kDepthA, bool kDepthB>
using HalfTwofold = HalfProduct<T, 4, 2, 2, 3, kDepthA, kDepthB>;
// 64 x 64.
template <class T, bool kDepthA, bool kDepthB>
using HalfSmall = HalfProduct<T, 4, 1, 1, 4, kDepthA, kDepthB>;

}  // namespace thrifty::cuda
