#pragma once

#include "attention/core_fwd_rows.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"

namespace thrifty::attention::cuda {

template <class Tile>
struct FwdShared {
  using T = typename Tile::T;
  using A = typename Tile::A;
  alignas(16) T q[Tile::kRows * Tile::kLd];
  alignas(16) T k[Tile::kColumns * Tile::kLd];
  alignas(16) T v[Tile::kColumns * Tile::kLd];
  alignas(16) T scratch[Tile::kScratch + 16];
  Queries<Tile, Tile::kRows> queries;
  Entries<A, Tile::kColumns> entries[2];  // of the block that is multiplied, and of the next
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    core_fwd_kernel(const __grid_constant__ FwdArgs args) {
  using A = typename Tile::A;
  THRIFTY_DYNAMIC_SHARED(FwdShared<Tile>, shared);
  FwdShared<Tile>& m = *shared;
  const CoreArgs& a = args.core;
  const int tile = args.tiles.first + int(blockIdx.x) % args.tiles.count;
  const Work w(a, a.q_tile_part[tile], int(blockIdx.x) / args.tiles.count);
  const Columns<Tile> columns(a, w);

  m.queries.find(a, w, (tile - w.part.q_tile) * Tile::kRows);
  syncthreads();
  load_queries<Tile, Tile::kRows>(m.q, a.q, a.d, w.head, a.q_heads, m.queries);
  Block block = columns.next(m.queries, {-Tile::kColumns, false});
  const auto fetch = [&](const Block& next, int use) {
    if (!columns.has(next)) return;
    columns.load_k(m.k, next);
    if (next.listed) {
      m.entries[use].template load<Tile::kThreads>(a.list, columns.list_at(), next.at,
                                                   columns.entries);
    }
  };
  int use = 0;
  fetch(block, use);

  FwdRows<Tile> rows(m.queries);
  rows.resume(args, w);
  if (columns.entries > 0 && a.list.with_var) {
    cp_async_wait<0>();
    syncthreads();
    m.queries.square(a, m.q);
    syncthreads();
#pragma unroll
    for (int i = 0; i < Tile::kHeld; ++i) rows.q2[i] = m.queries.q2[Tile::row(i)];
  }

  while (columns.has(block)) {
    cp_async_wait<0>();
    syncthreads();  // q and k are there, and nobody reads v
    columns.load_v(m.v, block);
    cp_async_commit();
    const bool reads = rows.reads(block);
    typename Tile::Scores s;
    if (reads) Tile::outer(s, m.q, m.k, a.d);
    syncthreads();  // nobody reads k
    const Block next = columns.next(m.queries, block);
    fetch(next, use ^ 1);
    cp_async_commit();
    if (reads) rows.weigh(s, block, A(a.scale), m.entries[use]);
    cp_async_wait<1>();
    // v is there, and says whether rows that do not see it must be kept from it.
    const bool finite = block_all(loaded_finite<Tile, Tile::kColumns>(m.v));
    if (reads && finite) {
      Tile::template accumulate<Tile::kWidth>(rows.softmax.sums, s, m.v, a.dv, m.scratch);
    } else if (reads) {
      Tile::template accumulate_sparse<Tile::kWidth>(rows.softmax.sums, s, m.v, a.dv, m.scratch);
    }
    block = next, use ^= 1;
  }
  cp_async_wait<0>();
  rows.finish(args, w);
}

template <class Tile>
cudaError_t start_fwd(const FwdArgs& args, cudaStream_t stream) {
  dim3 grid;
  const int64_t heads = int64_t(args.core.batch) * args.core.q_heads;
  if (!one_dimensional_grid(heads * args.tiles.count, grid)) return cudaErrorInvalidValue;
  return launch(core_fwd_kernel<Tile>, grid, dim3(Tile::kThreads), sizeof(FwdShared<Tile>), stream,
                args);
}

// Eight warps share each key that a tile loads; four where wider sums leave no registers for more.
template <class T>
using FwdNarrow = HalfTile<T, 8, 64>;
template <class T>
using FwdMiddle = HalfTile<T, 8, 128>;
template <class T>
using FwdWide = HalfTile<T, 4, 256>;

template <class T>
cudaError_t start_half_fwd(int width, const FwdArgs& args, cudaStream_t stream) {
  if (width <= 64) return start_fwd<FwdNarrow<T>>(args, stream);
  if (width <= 128) return start_fwd<FwdMiddle<T>>(args, stream);
  return start_fwd<FwdWide<T>>(args, stream);
}

}  // namespace thrifty::attention::cuda
