// Rows of groups times their groups' matrices, without padding: a block multiplies up to P::kM rows
// of one group (groups.cuh) by P::kN columns and finishes them where they are (finish_rows.cuh).
//
// Rows of `a` are gathered as they are copied to shared memory, so they are never written in sorted
// order. Gate and up of a neuron are columns of one tile: where a checkpoint has all gates, then
// all ups, the tile's first half comes from the one and its second half from the other, so the
// activation needs neither a pass of its own nor other weights.
#pragma once

#include "core/block_tile.cuh"
#include "core/cuda/launch.h"
#include "moe/finish_rows.cuh"

namespace thrifty::moe::cuda {

// Operands of core/product.cuh.
struct TileRowsOf {
  const void* data;
  int64_t stride;
  int width, vector;
  const int* sources;  // [kM], shared: row of data, -1 for none
  int first;

  THRIFTY_DEVICE bool has_row(int, int q) const { return sources[q - first] >= 0; }
  THRIFTY_DEVICE int64_t at(int, int q) const { return sources[q - first] * stride; }
  THRIFTY_DEVICE int left(int c) const { return width - c; }
  THRIFTY_DEVICE int column(int c) const { return c; }
};

template <int kHalf, bool kDepthLines>
struct TileWeights {
  GroupWeights w;
  const void* data;
  int vector;

  THRIFTY_DEVICE explicit TileWeights(const GroupWeights& w)
      : w(w), data(w.data), vector(w.vector) {}
  // Number q of a tile's columns is neuron(q) and lies in line or column place(q).
  THRIFTY_DEVICE int neuron(int q) const {
    return w.halves ? q / (2 * kHalf) * kHalf + q % kHalf : q;
  }
  THRIFTY_DEVICE int place(int q) const {
    return neuron(q) + (w.halves && q % (2 * kHalf) >= kHalf ? w.jump : 0);
  }
  THRIFTY_DEVICE bool has_row(int, int q) const { return neuron(q) < w.extent; }
  THRIFTY_DEVICE int64_t at(int group, int q) const {
    return group * w.group + (kDepthLines ? place(q) : q) * w.line;
  }
  THRIFTY_DEVICE int left(int c) const { return kDepthLines ? w.depth - c : w.extent - neuron(c); }
  THRIFTY_DEVICE int column(int c) const { return kDepthLines ? c : place(c); }
};

template <class B>
struct RowsProduct {
  TileRowsOf a;
  B b;
};
template <class B>
THRIFTY_DEVICE int depth_stop(const RowsProduct<B>&, const Place& place, int) {
  return place.depth_end;
}

template <class P, bool kDepthLines>
__global__ void __launch_bounds__(P::kThreads, P::kBlocksPerSm)
    grouped_rows_kernel(const RowsArgs args) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  THRIFTY_SHARED(int, sources, [P::kM]);
  const int tile_n = int(blockIdx.x) % args.tiles_n;
  const GroupTile rows = find_tile(args.groups, int(blockIdx.x) / args.tiles_n, P::kM);
  if (rows.group < 0) return;  // the whole block
  for (int i = int(threadIdx.x); i < P::kM; i += P::kThreads) {
    sources[i] = rows.m + i < rows.end ? args.a.source(rows.m + i) : -1;
  }
  syncthreads();
  using B = TileWeights<P::kN / 2, kDepthLines>;
  const RowsProduct<B> product{
      {args.a.data, args.a.stride, args.a.width, args.a.vector, sources, rows.m}, B(args.b)};
  const Place place{rows.m, tile_n * P::kN, rows.group, rows.group + 1, 0, args.b.depth};
  typename P::Sums sums;
  P::template run<false>(product, place, shared, sums, [](int) {});
  const BlockTile<P> tile(shared, sums);
  RowFinisher<typename P::T, P::kN, BlockTile<P>::kStride>(args.finish, tile.data, rows, tile_n,
                                                           args.groups.rows)
      .run(warp_index(), P::kThreads / kWarpSize, P::kM);
}

template <class P, bool kDepthLines>
cudaError_t launch_rows(RowsArgs args, cudaStream_t stream) {
  args.tiles_n = tiles(args.b.extent, args.b.halves ? P::kN / 2 : P::kN);
  dim3 grid;
  const int64_t tiles_m = group_tiles(args.groups.rows, args.groups.count, P::kM);
  if (!one_dimensional_grid(tiles_m * args.tiles_n, grid)) return cudaErrorInvalidConfiguration;
  constexpr int kBytes =
      P::kSharedBytes > BlockTile<P>::kBytes ? P::kSharedBytes : BlockTile<P>::kBytes;
  return launch(grouped_rows_kernel<P, kDepthLines>, grid, P::kThreads, kBytes, stream, args);
}

}  // namespace thrifty::moe::cuda
