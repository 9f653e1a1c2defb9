// The kernels of nearest_cuda.h over any block product P (core/product.cuh), which also says how
// many threads share a row of its sums, and which of them the caller is.
#pragma once

#include "attention/nearest_cuda.h"
#include "attention/plan_nodes.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/product.cuh"

namespace thrifty::attention::cuda {

// Rows that a list in shared memory names, as an operand.
struct ListedRows {
  const void* data;
  int64_t head, stride;
  const int32_t* row;  // shared
  int rows, width, vector;

  THRIFTY_DEVICE bool has_row(int, int q) const { return q < rows; }
  THRIFTY_DEVICE int64_t at(int, int q) const { return head + row[q] * stride; }
  THRIFTY_DEVICE int left(int c) const { return width - c; }
  THRIFTY_DEVICE int column(int c) const { return c; }
};

// A node's directions; bit j of `low` says that member j multiplies with their low halves.
struct DirectionRows {
  const void* data;
  int64_t first, low_at;
  unsigned low;
  int rows, width, vector;

  THRIFTY_DEVICE bool has_row(int, int q) const { return q < rows; }
  THRIFTY_DEVICE int64_t at(int j, int q) const {
    return first + (low >> j & 1) * low_at + int64_t(q) * width;
  }
  THRIFTY_DEVICE int left(int c) const { return width - c; }
  THRIFTY_DEVICE int column(int c) const { return c; }
};

template <class A>
struct DirectionProduct {
  A a;
  DirectionRows b;
  int depth;
};
template <class A>
THRIFTY_DEVICE int depth_stop(const DirectionProduct<A>& product, const Place&, int) {
  return product.depth;
}

THRIFTY_DEVICE DirectionRows node_directions(const DirectionArrays& all, int64_t head,
                                             const PlanNode& node, unsigned low, int vector) {
  const int64_t plane = all.count * all.width;
  return {all.parts,    head * all.split * plane + int64_t(node.centroid) * all.width,
          plane,        low,
          node.buckets, all.width,
          vector};
}

// The best column so far: smaller numbers first among equals.
struct Best {
  float score = -INFINITY;
  int id = 0;

  THRIFTY_DEVICE void take(float other, int column) {
    if (other > score || (other == score && column < id)) score = other, id = column;
  }
};

template <class P>
__global__ void __launch_bounds__(P::kThreads, P::kBlocksPerSm)
    nearest_kernel(const NearestArgs args) {
  using Sums = typename P::Sums;
  static_assert(P::kM == kTile);
  static_assert(int(sizeof(Best)) * P::kM * P::kColumnGroups <= P::kSharedBytes);
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  THRIFTY_SHARED(int32_t, row, [P::kM]);
  const int64_t head = blockIdx.x / args.tiles;
  const int tile = int(blockIdx.x % args.tiles);
  const PlanNode& node = find_node({args.nodes, args.node_count}, tile, [&](const PlanNode& n) {
    return int64_t(n.part[args.part].tile);
  });
  const Span& span = node.part[args.part];
  const int first = (tile - span.tile) * kTile;
  const int rows = span.count - first < kTile ? span.count - first : kTile;
  for (int i = int(threadIdx.x); i < rows; i += P::kThreads) {
    row[i] = row_of(node, args.part, first + i);
  }
  syncthreads();
  const int64_t set = head / args.group;
  constexpr int kVector = 16 / int(sizeof(typename P::T));
  const DirectionProduct<ListedRows> product{
      {args.rows.data, head_at(args.rows, args.head + head), args.rows.row_stride, row, rows,
       args.rows.d, args.rows.vector},
      node_directions(args.directions, set, node, 2, kVector),
      args.rows.d};
  const float* const bias =
      args.bias == nullptr ? nullptr : args.bias + head * args.directions.count + node.centroid;
  Best* const bests = reinterpret_cast<Best*>(shared);  // [kM, kColumnGroups], after a product
  Best mine;                                            // of row threadIdx.x
#pragma unroll 1
  for (int n = 0; n < node.buckets; n += P::kN) {
    Place place;
    place.n = n, place.member_end = args.directions.split, place.depth_end = args.rows.d;
    Sums sums;
    P::template run<false>(product, place, shared, sums, [](int) {});
#pragma unroll
    for (int j = 0; bias != nullptr && j < Sums::kColumns; ++j) {
      const int c = n + Sums::column(j);
      const float shift = c < node.buckets ? bias[c] : 0.0f;
#pragma unroll
      for (int i = 0; i < Sums::kRows; ++i) sums(i, j) -= shift;
    }
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      Best best;
#pragma unroll
      for (int j = 0; j < Sums::kColumns; ++j) {
        const int c = n + Sums::column(j);
        if (c < node.buckets) best.take(sums(i, j), c);
      }
      bests[Sums::row(i) * P::kColumnGroups + P::column_group()] = best;
    }
    syncthreads();
    if (int(threadIdx.x) < rows) {
#pragma unroll 4
      for (int g = 0; g < P::kColumnGroups; ++g) {
        const Best& best = bests[int(threadIdx.x) * P::kColumnGroups + g];
        mine.take(best.score, best.id);
      }
    }
    syncthreads();
  }
  if (int(threadIdx.x) < rows) {
    args.ids[head * args.stride + span.at + first + threadIdx.x] = mine.id;
  }
}

template <class P>
__global__ void __launch_bounds__(P::kThreads, P::kBlocksPerSm) gram_kernel(const GramArgs args) {
  using Sums = typename P::Sums;
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  const int64_t head = blockIdx.x / args.tiles;
  const int tile = int(blockIdx.x % args.tiles);
  const PlanNode& node = find_node({args.nodes, args.node_count}, tile,
                                   [](const PlanNode& n) { return int64_t(n.gram_tile); });
  const int across = tiles(node.buckets, kTile), at = tile - node.gram_tile;
  constexpr int kVector = 16 / int(sizeof(typename P::T));
  // Members: high high, low high, high low.
  const DirectionProduct<DirectionRows> product{
      node_directions(args.directions, head, node, 2, kVector),
      node_directions(args.directions, head, node, 4, kVector), args.directions.width};
  Place place;
  place.m = at / across * kTile, place.n = at % across * kTile;
  place.member_end = 2 * args.directions.split - 1, place.depth_end = args.d;
  Sums sums;
  P::template run<false>(product, place, shared, sums, [](int) {});
  float* const gram = args.gram + head * args.stride + node.gram;
#pragma unroll
  for (int i = 0; i < Sums::kRows; ++i) {
#pragma unroll
    for (int j = 0; j < Sums::kColumns; ++j) {
      const int b = place.m + Sums::row(i), c = place.n + Sums::column(j);
      if (b < node.buckets && c < node.buckets) gram[int64_t(b) * node.buckets + c] = sums(i, j);
    }
  }
}

template <class P>
cudaError_t launch_nearest(const NearestArgs& args, cudaStream_t stream) {
  dim3 grid;
  if (!one_dimensional_grid(args.heads * args.tiles, grid)) return cudaErrorInvalidConfiguration;
  return launch(nearest_kernel<P>, grid, P::kThreads, P::kSharedBytes, stream, args);
}

template <class P>
cudaError_t launch_gram(const GramArgs& args, cudaStream_t stream) {
  dim3 grid;
  if (!one_dimensional_grid(args.heads * args.tiles, grid)) return cudaErrorInvalidConfiguration;
  return launch(gram_kernel<P>, grid, P::kThreads, P::kSharedBytes, stream, args);
}

}  // namespace thrifty::attention::cuda
