#pragma once

#include "attention/core_bwd.h"
#include "attention/core_rows.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"

namespace thrifty::attention::cuda {

template <class Tile>
struct BwdShared {
  using T = typename Tile::T;
  using A = typename Tile::A;
  static constexpr int kTile = Tile::kRows * Tile::kLd;
  static_assert(Tile::kRows == Tile::kColumns);
  alignas(16) T q[kTile];
  alignas(16) T dout[kTile];
  alignas(16) T k[kTile];
  alignas(16) T v[kTile];
  alignas(16) T scratch[Tile::kScratch + 16];
  Queries<Tile, Tile::kRows> queries;
  A lse[Tile::kRows], delta[Tile::kRows];
  Entries<A, Tile::kColumns> entries;
};

// The queries at place `first` and what backward knows of them. Shared memory is free before; a
// wait of cp.async and a barrier follow.
template <class Tile>
THRIFTY_DEVICE void load_bwd_queries(BwdShared<Tile>& m, const BwdArgs& args, const Work& w,
                                     int first) {
  using A = typename Tile::A;
  const CoreArgs& a = args.core;
  m.queries.find(a, w, first);
  syncthreads();
  load_queries<Tile, Tile::kRows>(m.q, a.q, a.d, w.head, a.q_heads, m.queries);
  load_queries<Tile, Tile::kRows>(m.dout, args.dout, a.dv, w.head, a.q_heads, m.queries);
  cp_async_commit();
  for (int i = int(threadIdx.x); i < Tile::kRows; i += Tile::kThreads) {
    const int row = m.queries.row[i];
    const int64_t at = w.head * a.nq + row;
    const A lse = row < 0 ? A(0) : static_cast<const A*>(args.lse)[at];
    m.lse[i] = lse == -A(INFINITY) ? A(0) : lse;
    m.delta[i] = row < 0 ? A(0) : static_cast<const A*>(args.delta)[at];
  }
}

// A weight and the gradient of its score, which is 0 where the weight is: what is hidden may stand
// for an infinite value.
template <class Tile>
struct Grad {
  using A = typename Tile::A;
  A p, ds;
  THRIFTY_DEVICE Grad(A x, A lse, A left, A dp, A delta) : p(weight<Tile>(x - lse) * left) {
    ds = p == 0 ? A(0) : p * (dp - delta);
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    core_bwd_queries_kernel(const __grid_constant__ BwdArgs args) {
  using T = typename Tile::T;
  using A = typename Tile::A;
  constexpr int kHeld = Tile::kHeld;
  THRIFTY_DYNAMIC_SHARED(BwdShared<Tile>, shared);
  BwdShared<Tile>& m = *shared;
  const CoreArgs& a = args.core;
  const int tile = args.tiles.first + int(blockIdx.x) % args.tiles.count;
  const Work w(a, a.q_tile_part[tile], int(blockIdx.x) / args.tiles.count);
  const Columns<Tile> columns(a, w);

  load_bwd_queries(m, args, w, (tile - w.part.q_tile) * Tile::kRows);
  if (warp_index() == 0) {
    int low = INT32_MAX, high = 0;
    for (int i = lane_index(); i < Tile::kRows; i += kWarpSize) {
      const int begin = m.queries.begin[i], end = m.queries.end[i];
      if (begin < end && begin < low) low = begin;
      if (begin < end && end > high) high = end;
    }
    high = warp_max(high), low = -warp_max(-low);
    if (lane_index() == 0) {
      int32_t* const bounds = args.bounds + 2 * (w.head * args.q_tiles + tile);
      bounds[0] = low, bounds[1] = high;
    }
  }
  cp_async_wait<0>();
  syncthreads();
  if (columns.entries > 0 && a.list.with_var) {
    m.queries.square(a, m.q);
    syncthreads();
  }
  int begin[kHeld], end[kHeld];
  A lse[kHeld], delta[kHeld], q2[kHeld] = {}, dq2[kHeld] = {};
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int r = Tile::row(i);
    begin[i] = m.queries.begin[r], end[i] = m.queries.end[r];
    lse[i] = m.lse[r], delta[i] = m.delta[r];
    if (columns.entries > 0 && a.list.with_var) q2[i] = m.queries.q2[r];
  }
  typename Tile::template Sums<Tile::kWidth> dq;

  for (Block block = columns.next(m.queries, {-Tile::kColumns, false}); columns.has(block);
       block = columns.next(m.queries, block)) {
    columns.load_k(m.k, block);
    columns.load_v(m.v, block);
    cp_async_commit();
    if (block.listed) {
      m.entries.template load<Tile::kThreads>(a.list, columns.list_at(), block.at, columns.entries);
    }
    cp_async_wait<0>();
    syncthreads();
    typename Tile::Scores s, dp;
    Tile::outer(s, m.q, m.k, a.d);
    Tile::outer(dp, m.dout, m.v, a.dv);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kHeldColumns; ++j) {
        const int c = Tile::column(j), at = block.at + c;
        A x, left = 1;
        if (block.listed) {
          left = m.entries.left(c, begin[i], end[i]);
          x = m.entries.score(c, s.d[i][j], A(a.scale), q2[i], left);
        } else {
          x = at >= begin[i] && at < end[i] ? s.d[i][j] * A(a.scale) : -A(INFINITY);
        }
        s.d[i][j] = Grad<Tile>(x, lse[i], left, dp.d[i][j], delta[i]).ds;
        if (block.listed) dq2[i] += s.d[i][j] * m.entries.var[c];
      }
    }
    Tile::template accumulate<Tile::kWidth>(dq, s, m.k, a.d, m.scratch);
    syncthreads();
  }

#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const A by_q = A(a.scale) * A(a.scale) * Tile::across(dq2[i], [](A x, A y) { return x + y; });
    const int r = Tile::row(i), row = m.queries.row[r];
    if (row < 0) continue;
    const int64_t at = (w.head * a.nq + row) * a.d;
    A* const sums = static_cast<A*>(args.dq) + at;
    for_dims<Tile, Tile::kWidth>(a.d, [&](int e, int dim) {
#pragma unroll
      for (int n = 0; n < Tile::kAdjacent; ++n) {
        if (dim + n >= a.d) continue;
        A value = A(a.scale) * dq.d[i][e + n];
        if (by_q != 0) value += by_q * A(to_float(m.q[r * Tile::kLd + dim + n]));
        if (w.part.first == 0) value += sums[dim + n];
        if (w.part.last != 0) {
          static_cast<T*>(args.dq_out)[at + dim + n] = from_float<T>(value);
        } else {
          sums[dim + n] = value;
        }
      }
    });
  }
}

// What a block of the second kernel works on: columns, and the queries' tiles that it adds up.
struct ColumnWork {
  int slice, tile, part, first, last;
  int64_t key_head, split;

  template <class Tile>
  static THRIFTY_DEVICE ColumnWork find(const BwdArgs& args, int slices, Tile*) {
    const CoreArgs& a = args.core;
    int rest = int(blockIdx.x);
    ColumnWork c;
    c.tile = args.tiles.first + rest % args.tiles.count, rest /= args.tiles.count;
    c.slice = rest % slices, rest /= slices;
    c.split = rest % args.splits, c.key_head = rest / args.splits;
    c.part = args.listed ? a.list_tile_part[c.tile] : a.k_tile_part[c.tile];
    const CorePart& part = a.parts[c.part];
    const int64_t tiles = (part.queries - 1) / Tile::kRows + 1;
    c.first = part.q_tile + int(tiles * c.split / args.splits);
    c.last = part.q_tile + int(tiles * (c.split + 1) / args.splits);
    return c;
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    core_bwd_columns_kernel(const __grid_constant__ BwdArgs args) {
  using A = typename Tile::A;
  constexpr int kHeld = Tile::kHeld, kDims = Tile::kSlice, kSlices = Tile::kWidth / kDims;
  constexpr int kScan = 2;  // times 32 tiles whose bounds are read at once
  THRIFTY_DYNAMIC_SHARED(BwdShared<Tile>, shared);
  BwdShared<Tile>& m = *shared;
  const CoreArgs& a = args.core;
  const ColumnWork c = ColumnWork::find(args, kSlices, static_cast<Tile*>(nullptr));
  const int group = a.q_heads / a.k_heads, first_dim = c.slice * kDims;
  const int first_head =
      int(c.key_head) / a.k_heads * a.q_heads + int(c.key_head) % a.k_heads * group;
  const Work first(a, c.part, first_head);
  const Columns<Tile> columns(a, first);
  const CorePart& part = first.part;
  const int first_tile = args.listed ? part.list_tile : part.k_tile;
  const Block block{(c.tile - first_tile) * Tile::kRows, args.listed};
  columns.load_k(m.k, block);
  columns.load_v(m.v, block);
  cp_async_commit();
  if (args.listed) {
    m.entries.template load<Tile::kThreads>(a.list, columns.list_at(), block.at, columns.entries);
  }
  const int dims = a.d - first_dim, value_dims = a.dv - first_dim;
  typename Tile::template Sums<kDims> dk, dv;
  A dlogw[kHeld] = {}, dvar[kHeld] = {};

  const auto add_tile = [&](int head, int tile) {
    const Work w(a, c.part, head);
    load_bwd_queries(m, args, w, (tile - part.q_tile) * Tile::kRows);
    cp_async_wait<0>();
    syncthreads();
    if (args.listed && a.list.with_var) {
      m.queries.square(a, m.q);
      syncthreads();
    }
    typename Tile::Scores s, dp;
    Tile::outer(s, m.k, m.q, a.d);
    Tile::outer(dp, m.v, m.dout, a.dv);
#pragma unroll
    for (int j = 0; j < Tile::kHeldColumns; ++j) {
      const int query = Tile::column(j);
      const int begin = m.queries.begin[query], end = m.queries.end[query];
      const bool there = m.queries.row[query] >= 0;
      const A q2 = args.listed && a.list.with_var ? m.queries.q2[query] : A(0);
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
        const int r = Tile::row(i), at = block.at + r;
        A x, left = 1;
        if (args.listed) {
          left = m.entries.left(r, begin, end);
          x = m.entries.score(r, s.d[i][j], A(a.scale), q2, left);
          x = there ? x : -A(INFINITY);
        } else {
          x = at >= begin && at < end ? s.d[i][j] * A(a.scale) : -A(INFINITY);
        }
        const Grad<Tile> grad(x, m.lse[query], left, dp.d[i][j], m.delta[query]);
        s.d[i][j] = grad.p, dp.d[i][j] = grad.ds;
        if (args.listed) {
          dlogw[i] += grad.ds;
          dvar[i] += grad.ds * q2;
        }
      }
    }
    Tile::template accumulate<kDims>(dv, s, m.dout + first_dim, value_dims, m.scratch);
    Tile::template accumulate<kDims>(dk, dp, m.q + first_dim, dims, m.scratch);
    syncthreads();
  };

  for (int head = first_head; head < first_head + group; ++head) {
    const int32_t* const bounds = args.bounds + 2 * int64_t(head) * args.q_tiles;
    for (int base = c.first; base < c.last; base += kScan * kWarpSize) {
      uint32_t reads[kScan];
#pragma unroll
      for (int n = 0; n < kScan; ++n) {
        const int tile = base + n * kWarpSize + lane_index();
        bool meets = tile < c.last;
        if (meets && !args.listed) {
          const Vec<int32_t, 2> bound = load_vec<2>(bounds + 2 * tile);
          meets = bound[0] < block.at + Tile::kRows && bound[1] > block.at;
        }
        reads[n] = warp_ballot(meets);
      }
#pragma unroll 1
      for (int n = 0; n < kScan; ++n) {
        for (uint32_t left = n == 0 ? reads[0] : reads[1]; left != 0; left &= left - 1) {
          add_tile(head, base + n * kWarpSize + find_first_set(left) - 1);
        }
      }
    }
  }
  cp_async_wait<0>();

#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const auto sum = [](A x, A y) { return x + y; };
    const A logw = Tile::across(dlogw[i], sum), var = Tile::across(dvar[i], sum);
    const int at = block.at + Tile::row(i);
    if (args.listed) {
      if (at >= columns.entries) continue;
      const int ld = a.d + a.dv + 2;
      const int64_t entry = part.list_at - args.first_entry + at;
      const int64_t heads = int64_t(a.batch) * a.k_heads;
      A* const to = static_cast<A*>(args.list_grads) +
                    ((c.split * heads + c.key_head) * args.entries + entry) * ld;
      for_dims<Tile, kDims>(kDims, [&](int e, int dim) {
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) {
          if (dim + n < dims) to[first_dim + dim + n] = dk.d[i][e + n];
          if (dim + n < value_dims) to[a.d + first_dim + dim + n] = dv.d[i][e + n];
        }
      });
      if (c.slice == 0 && Tile::leads()) to[a.d + a.dv] = logw, to[a.d + a.dv + 1] = var;
    } else {
      if (at >= part.sorted) continue;
      const int64_t row = c.key_head * a.nk + key_at(a, part, c.key_head, at);
      A* const to_k = static_cast<A*>(args.dk) + row * a.d + first_dim;
      A* const to_v = static_cast<A*>(args.dv) + row * a.dv + first_dim;
      for_dims<Tile, kDims>(kDims, [&](int e, int dim) {
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) {
          if (dim + n < dims) to_k[dim + n] += A(a.scale) * dk.d[i][e + n];
          if (dim + n < value_dims) to_v[dim + n] += dv.d[i][e + n];
        }
      });
    }
  }
}

template <class Tile>
cudaError_t start_bwd(BwdPass pass, const BwdArgs& args, cudaStream_t stream) {
  const bool queries = pass == BwdPass::kQueries;
  const int64_t heads = int64_t(args.core.batch) * args.core.k_heads;
  const int64_t per_tile = queries ? int64_t(args.core.batch) * args.core.q_heads
                                   : heads * args.splits * (Tile::kWidth / Tile::kSlice);
  dim3 grid;
  if (!one_dimensional_grid(per_tile * args.tiles.count, grid)) return cudaErrorInvalidValue;
  return launch(queries ? core_bwd_queries_kernel<Tile> : core_bwd_columns_kernel<Tile>, grid,
                dim3(Tile::kThreads), sizeof(BwdShared<Tile>), stream, args);
}

template <class T>
cudaError_t start_half_bwd(int width, BwdPass pass, const BwdArgs& args, cudaStream_t stream) {
  if (width <= 64) return start_bwd<HalfTile<T, 4, 64>>(pass, args, stream);
  if (width <= 128) return start_bwd<HalfTile<T, 4, 128>>(pass, args, stream);
  return start_bwd<HalfTile<T, 4, 256>>(pass, args, stream);
}

}  // namespace thrifty::attention::cuda
