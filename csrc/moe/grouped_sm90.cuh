// Rows of groups times their groups' matrices on Hopper: as grouped_rows.cuh, by wgmma.
//
// A block stays and takes every gridDim.x-th tile. Its first warpgroup fills a ring of stages of 64
// depths: the copy engine (TMA) brings weights, cp.async gathers the tokens' rows, which TMA
// cannot. Two warpgroups multiply and finish; meanwhile the ring fills for the next tile.
//
//   prefill   128 tokens x 256 columns   D = X W^T     each warpgroup has 64 tokens
//   decode    16 or 64 tokens x 128      D^T = W X^T   each warpgroup has 64 columns: wgmma's 64
//                                        rows are weights, which a few tokens do not fill
//
// Every 64 columns of a tile are a chunk; of gate and up halves it has 32 of each, so that a chunk
// in shared memory is all that the activation needs (finish_rows.cuh).
#pragma once

#include "core/cuda/async_copy.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ring.cuh"
#include "core/cuda/tma.cuh"
#include "core/cuda/wgmma.cuh"
#include "core/product.cuh"
#include "moe/finish_rows.cuh"
#include "moe/grouped_sm90.h"

namespace thrifty::moe::cuda {

template <class T_, int kTokens_, int kStages_, bool kDepthLines_>
struct HopperTile {
  using T = T_;
  static constexpr bool kSwap = kTokens_ < 128, kDepthLines = kDepthLines_;
  static_assert(kDepthLines || !kSwap, "decode: weights with contiguous depths");
  static constexpr int kTokens = kTokens_, kStages = kStages_;
  static constexpr int kColumns = kSwap ? 128 : 256, kChunk = 64, kHalf = kChunk / 2;
  static constexpr int kDepth = 64, kLine = 2 * kDepth;  // bytes: the span of the swizzle
  static constexpr Swizzle kSwizzle = Swizzle::bytes128;
  static constexpr int kTokenBytes = kTokens * kLine, kWeightBytes = kColumns * kLine;
  static constexpr int kStageBytes = kTokenBytes + kWeightBytes;
  static constexpr int kProducers = 128, kConsumers = 256, kThreads = kProducers + kConsumers;
  // Sums on their way to finish_rows.cuh: a chunk's 16 tokens of a warp, or all of a warpgroup.
  static constexpr int kStride = kChunk + 4;
  static constexpr int kSheet = (kSwap ? kTokens : 16) * kStride;  // floats
  static constexpr int kSharedBytes = kStages * kStageBytes + (kSwap ? 2 : 8) * kSheet * 4;
  static constexpr int kSums = (kSwap ? kTokens : kColumns) / 2;
};

// The tiles of a block.
struct TileWalk {
  const RowsArgs& args;
  int64_t tile, count;

  THRIFTY_DEVICE TileWalk(const RowsArgs& args, int tokens)
      : args(args),
        tile(blockIdx.x),
        count(group_tiles(args.groups.rows, args.groups.count, tokens) * args.tiles_n) {}
  template <class Body>
  THRIFTY_DEVICE void run(int tokens, const Body& body) {
#pragma unroll 1
    for (; tile < count; tile += gridDim.x) {
      const GroupTile rows = find_tile(args.groups, int(tile / args.tiles_n), tokens);
      if (rows.group >= 0) body(rows, int(tile % args.tiles_n));
    }
  }
};

template <class P>
struct Producer {
  using T = typename P::T;
  // cp.async of so many stages may be on their way before the oldest is announced.
  static constexpr int kLag = 2;
  static constexpr int kRowsAside = P::kProducers / (P::kLine / 16);
  static constexpr int kRows = P::kTokens / kRowsAside;
  static_assert(kRows * kRowsAside == P::kTokens && kLag < P::kStages);
  const RowsArgs& args;
  const TensorMap* weights;
  unsigned char* stages;
  Ring<P::kStages>& ring;
  RingPlace<P::kStages> filling, telling;
  int untold = 0;

  THRIFTY_DEVICE Producer(const RowsArgs& args, const TensorMap* weights, unsigned char* stages,
                          Ring<P::kStages>& ring)
      : args(args), weights(weights), stages(stages), ring(ring) {}

  THRIFTY_DEVICE void tile(const GroupTile& rows, int tile_n) {
    const int thread = int(threadIdx.x), chunk = thread % (P::kLine / 16);
    int sources[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int r = rows.m + i * kRowsAside + thread / (P::kLine / 16);
      sources[i] = r < rows.end ? args.a.source(r) : -1;
    }
#pragma unroll 1
    for (int depth = 0; depth < args.b.depth; depth += P::kDepth) {
      mbarrier_wait(&ring.empty[filling.stage], 1 - filling.phase);
      unsigned char* const stage = stages + filling.stage * P::kStageBytes;
      if (thread == 0) load_weights(stage + P::kTokenBytes, rows.group, tile_n, depth);
      const int column = depth + chunk * 8;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const int row = i * kRowsAside + thread / (P::kLine / 16);
        const bool valid = sources[i] >= 0 && column < args.a.width;
        const T* const from =
            static_cast<const T*>(args.a.data) + (valid ? sources[i] * args.a.stride + column : 0);
        cp_async<16>(stage + swizzled(P::kSwizzle, uint32_t(row * P::kLine + chunk * 16)), from,
                     valid);
      }
      cp_async_commit();
      filling.next();
      if (++untold > kLag) tell<kLag>();
    }
  }
  THRIFTY_DEVICE void finish() {
    while (untold > 0) tell<0>();
  }

 private:
  // The oldest stage whose rows this warp has not announced.
  template <int kPending>
  THRIFTY_DEVICE void tell() {
    cp_async_wait<kPending>();
    fence_async_shared();
    syncwarp();
    if (lane_index() == 0) mbarrier_arrive(&ring.full[telling.stage]);
    telling.next();
    --untold;
  }

  // Columns tile_n * kColumns and on; what lies outside the matrix arrives as zeros.
  THRIFTY_DEVICE void load_weights(unsigned char* to, int group, int tile_n, int depth) {
    Mbarrier* const full = &ring.full[filling.stage];
    mbarrier_arrive_expect(full, P::kWeightBytes);
    if constexpr (P::kDepthLines) {
      const int columns = args.b.halves ? P::kHalf : P::kColumns;  // of a box
      const int first = tile_n * (args.b.halves ? P::kColumns / 2 : P::kColumns);
#pragma unroll 1
      for (int q = 0; q < P::kColumns; q += columns) {
        const bool up = args.b.halves && q % P::kChunk != 0;
        const int line = first + (args.b.halves ? q / P::kChunk * P::kHalf : q);
        tma_load_3d(to + q * P::kLine, weights, full, depth, line + (up ? args.b.jump : 0), group);
      }
    } else {
#pragma unroll 1
      for (int q = 0; q < P::kColumns; q += P::kDepth) {
        tma_load_3d(to + q * P::kLine, weights, full, tile_n * P::kColumns + q, depth, group);
      }
    }
  }
};

template <class P>
struct Consumer {
  using T = typename P::T;
  using Finisher = RowFinisher<T, P::kChunk, P::kStride>;
  const RowsArgs& args;
  unsigned char* stages;
  Ring<P::kStages>& ring;
  const int group, warp;  // of consumers; of the warpgroup
  float* const sheet;
  RingPlace<P::kStages> place;

  THRIFTY_DEVICE Consumer(const RowsArgs& args, unsigned char* stages, Ring<P::kStages>& ring,
                          int group)
      : args(args),
        stages(stages),
        ring(ring),
        group(group),
        warp(uniform_warp_index() % 4),
        sheet(reinterpret_cast<float*>(stages + P::kStages * P::kStageBytes) +
              (P::kSwap ? group : group * 4 + warp) * P::kSheet) {}

  THRIFTY_DEVICE void tile(const GroupTile& rows, int tile_n) {
    float d[P::kSums];
    multiply(d);
    if constexpr (P::kSwap) {
      finish_swapped(d, rows, tile_n);
    } else {
      finish(d, rows, tile_n);
    }
  }

 private:
  THRIFTY_DEVICE void multiply(float (&d)[P::kSums]) {
    int last = -1;  // the stage that the batch in flight reads
#pragma unroll 1
    for (int depth = 0; depth < args.b.depth; depth += P::kDepth) {
      mbarrier_wait(&ring.full[place.stage], place.phase);
      const unsigned char* const tokens = stages + place.stage * P::kStageBytes;
      const unsigned char* const weights = tokens + P::kTokenBytes;
      wgmma_fence(d);
#pragma unroll
      for (int k = 0; k < P::kDepth; k += 16) {
        const bool accumulate = depth > 0 || k > 0;
        if constexpr (P::kSwap) {
          const uint64_t w = wgmma_operand<P::kSwizzle>(weights + group * 64 * P::kLine, 0, k);
          wgmma<T, P::kTokens>(d, w, wgmma_operand<P::kSwizzle>(tokens, 0, k), accumulate);
        } else {
          constexpr Major kMajor = P::kDepthLines ? Major::k : Major::mn;
          constexpr int kPanel = 64 * P::kLine;
          const uint64_t x = wgmma_operand<P::kSwizzle>(tokens + group * 64 * P::kLine, 0, k);
          wgmma<T, P::kColumns, Major::k, kMajor>(
              d, x, wgmma_operand<P::kSwizzle, kMajor>(weights, kPanel, k), accumulate);
        }
      }
      wgmma_commit();
      wgmma_wait<1>(d);
      if (last >= 0) release(last);
      last = place.stage;
      place.next();
    }
    wgmma_wait<0>(d);
    release(last);
  }
  THRIFTY_DEVICE void release(int stage) {
    if (lane_index() == 0) mbarrier_arrive(&ring.empty[stage]);
  }

  // A warp has 16 tokens by 256 columns, and finishes one chunk after the other. The loop is not
  // unrolled, the code of an activation stands once: which sums go is the branch inside.
  THRIFTY_DEVICE void finish(const float (&d)[P::kSums], const GroupTile& rows, int tile_n) {
    const int lane = lane_index();
    const GroupTile own{rows.group, rows.m + group * 64 + warp * 16, rows.end};
#pragma unroll 1
    for (int chunk = 0; chunk < P::kColumns / P::kChunk; ++chunk) {
      syncwarp();  // the chunk before has been read
#pragma unroll
      for (int c = 0; c < P::kColumns / P::kChunk; ++c) {
        if (c != chunk) continue;
#pragma unroll
        for (int j = 0; j < P::kChunk / 8; ++j) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const float* const pair = d + c * (P::kChunk / 2) + 4 * j + 2 * i;
            store_vec(sheet + (lane / 4 + 8 * i) * P::kStride + 8 * j + lane % 4 * 2,
                      Vec<float, 2>{{pair[0], pair[1]}});
          }
        }
      }
      syncwarp();
      Finisher(args.finish, sheet, own, tile_n * (P::kColumns / P::kChunk) + chunk,
               args.groups.rows)
          .run(0, 1, 16);
    }
  }

  // A warpgroup has 64 columns, one chunk, of all tokens.
  THRIFTY_DEVICE void finish_swapped(const float (&d)[P::kSums], const GroupTile& rows,
                                     int tile_n) {
    const int lane = lane_index();
    named_barrier_sync(1 + group, 128);  // the tile before has been read
#pragma unroll
    for (int i = 0; i < P::kSums; ++i) {
      const int column = warp * 16 + lane / 4 + i / 2 % 2 * 8;
      sheet[(i / 4 * 8 + lane % 4 * 2 + i % 2) * P::kStride + column] = d[i];
    }
    named_barrier_sync(1 + group, 128);
    Finisher(args.finish, sheet, rows, tile_n * 2 + group, args.groups.rows)
        .run(warp, 4, P::kTokens);
  }
};

template <class P>
__global__ void __launch_bounds__(P::kThreads, 1)
    grouped_sm90_kernel(const RowsArgs args, const __grid_constant__ TensorMap weights) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, stages);
  THRIFTY_SHARED(Ring<P::kStages>, ring, [1]);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < P::kStages; ++stage) {
      mbarrier_init(&ring->full[stage], P::kProducers / kWarpSize + 1);
      mbarrier_init(&ring->empty[stage], P::kConsumers / kWarpSize);
    }
    fence_mbarrier_init();
  }
  syncthreads();
  const int warpgroup = uniform_warpgroup_index();
  if (warpgroup == 0) {
    if constexpr (!P::kSwap) setmaxnreg_decrease<56>();
    Producer<P> producer(args, &weights, stages, *ring);
    TileWalk(args, P::kTokens).run(P::kTokens, [&](const GroupTile& rows, int tile_n) {
      producer.tile(rows, tile_n);
    });
    producer.finish();
  } else {
    if constexpr (!P::kSwap) setmaxnreg_increase<224>();
    Consumer<P> consumer(args, stages, *ring, warpgroup - 1);
    TileWalk(args, P::kTokens).run(P::kTokens, [&](const GroupTile& rows, int tile_n) {
      consumer.tile(rows, tile_n);
    });
  }
}

// Lines of depths [kColumns or kHalf, 64], or lines of columns [64, 64], of one group at a time.
template <class P>
cudaError_t weights_map(const GroupWeights& w, int groups, TensorMap* map) {
  const uint64_t lines = uint64_t(P::kDepthLines ? w.extent + w.jump : w.depth);
  const uint64_t length = uint64_t(P::kDepthLines ? w.depth : w.extent);
  const uint32_t box = uint32_t(!P::kDepthLines ? P::kDepth : w.halves ? P::kHalf : P::kColumns);
  return make_tensor_map(
      map, static_cast<const typename P::T*>(w.data), {length, lines, uint64_t(groups)},
      {1, uint64_t(w.line), uint64_t(w.group)}, {uint32_t(P::kDepth), box, 1}, P::kSwizzle);
}

template <class P>
cudaError_t launch_sm90(RowsArgs args, int processors, cudaStream_t stream) {
  TensorMap map;
  if (weights_map<P>(args.b, args.groups.count, &map) != cudaSuccess) return cudaErrorNotSupported;
  args.tiles_n = tiles(args.b.extent, args.b.halves ? P::kColumns / 2 : P::kColumns);
  const int64_t count = group_tiles(args.groups.rows, args.groups.count, P::kTokens) * args.tiles_n;
  const dim3 grid(unsigned(count < processors ? count : processors));
  return launch(grouped_sm90_kernel<P>, grid, P::kThreads, P::kSharedBytes, stream, args, map);
}

// Stages: as many as the 227 KiB of a block hold beside the sheets.
template <class T>
cudaError_t launch_rows_sm90(const RowsArgs& args, TileRows tile, int processors,
                             cudaStream_t stream) {
  if (tile == TileRows::k128) {
    return args.b.depth_lines ? launch_sm90<HopperTile<T, 128, 4, true>>(args, processors, stream)
                              : launch_sm90<HopperTile<T, 128, 4, false>>(args, processors, stream);
  }
  if (!args.b.depth_lines) return cudaErrorNotSupported;
  return tile == TileRows::k16 ? launch_sm90<HopperTile<T, 16, 10, true>>(args, processors, stream)
                               : launch_sm90<HopperTile<T, 64, 7, true>>(args, processors, stream);
}

}  // namespace thrifty::moe::cuda
