// Products over the rows of a group, which is what gradients of weights are:
//
//   out[e] = a_e^T b_e        a_e, b_e: the rows of group e, gathered where an index is given
//
// A block has one tile of one group's result and walks over the group's rows, so nothing is added
// by two blocks and a group without rows is written as zeros.
#pragma once

#include "core/block_tile.cuh"
#include "core/cuda/launch.h"
#include "moe/grouped_args.h"

namespace thrifty::moe::cuda {

// An operand of core/product.cuh.
struct DepthLines {
  DepthRows rows;
  const void* data;
  int vector;

  THRIFTY_DEVICE explicit DepthLines(const DepthRows& rows)
      : rows(rows), data(rows.data), vector(rows.vector) {}
  THRIFTY_DEVICE bool has_row(int, int) const { return true; }
  THRIFTY_DEVICE int64_t at(int, int q) const {
    return (rows.rows == nullptr ? q : load_readonly(rows.rows + q)) * rows.stride;
  }
  THRIFTY_DEVICE int left(int c) const { return rows.width - c; }
  THRIFTY_DEVICE int column(int c) const { return c; }
};

struct DepthProduct {
  DepthLines a, b;
};
THRIFTY_DEVICE int depth_stop(const DepthProduct&, const Place& place, int) {
  return place.depth_end;
}

// Rows of the results: [E, rows, columns], contiguous.
struct ResultRows {
  int64_t group, row;
  THRIFTY_DEVICE int64_t operator()(int j, int q) const { return j * group + q * row; }
};

template <class P>
__global__ void __launch_bounds__(P::kThreads, P::kBlocksPerSm)
    grouped_depth_kernel(const DepthArgs args) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  const int rows = args.a.width, columns = args.b.width;
  const int tiles_n = tiles(columns, P::kN), tiles_m = tiles(rows, P::kM);
  const int tile = int(blockIdx.x) % (tiles_n * tiles_m);
  const int group = int(blockIdx.x) / (tiles_n * tiles_m);
  const Place place{tile / tiles_n * P::kM,   tile % tiles_n * P::kN, group, group + 1,
                    args.groups.begin(group), args.groups.end(group)};
  typename P::Sums sums;
  P::template run<false>(DepthProduct{DepthLines(args.a), DepthLines(args.b)}, place, shared, sums,
                         [](int) {});
  const BlockTile<P> all(shared, sums);
  const ResultRows at{int64_t(rows) * columns, columns};
  if (args.wide_out) {
    all.store(static_cast<float*>(args.out), at, group, place, rows, columns, args.vector);
  } else {
    all.store(static_cast<typename P::T*>(args.out), at, group, place, rows, columns, args.vector);
  }
}

template <class P>
cudaError_t launch_depth(const DepthArgs& args, cudaStream_t stream) {
  dim3 grid;
  const int64_t per_group = int64_t(tiles(args.a.width, P::kM)) * tiles(args.b.width, P::kN);
  if (per_group > INT32_MAX || !one_dimensional_grid(per_group * args.groups.count, grid)) {
    return cudaErrorInvalidConfiguration;
  }
  constexpr int kBytes =
      P::kSharedBytes > BlockTile<P>::kBytes ? P::kSharedBytes : BlockTile<P>::kBytes;
  return launch(grouped_depth_kernel<P>, grid, P::kThreads, kBytes, stream, args);
}

}  // namespace thrifty::moe::cuda
