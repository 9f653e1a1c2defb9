#pragma once

#include "attention/core_fwd.h"
#include "attention/core_rows.cuh"
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

// The softmax of the rows that a thread holds a part of.
template <class Tile>
struct OnlineSoftmax {
  using A = typename Tile::A;
  static constexpr int kHeld = Tile::kHeld;
  A max[kHeld], sum[kHeld];  // sum: this thread's columns only
  typename Tile::template Sums<Tile::kWidth> sums;

  THRIFTY_DEVICE OnlineSoftmax() {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) max[i] = -A(INFINITY), sum[i] = 0;
  }

  // s: scores, -infinity for what is hidden; left(i, j): the share of it that counts. s becomes
  // the weights.
  template <class Left>
  THRIFTY_DEVICE void add(typename Tile::Scores& s, const Left& left) {
    A factor[kHeld];
    bool same = true;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      A top = max[i];
#pragma unroll
      for (int j = 0; j < Tile::kHeldColumns; ++j) top = s.d[i][j] > top ? s.d[i][j] : top;
      top = Tile::across(top, [](A x, A y) { return x > y ? x : y; });
      const A base = top == -A(INFINITY) ? A(0) : top;
      factor[i] = top == max[i] ? A(1) : weight<Tile>(max[i] - base);
      same = same && top == max[i];
      max[i] = top;
      A total = 0;
#pragma unroll
      for (int j = 0; j < Tile::kHeldColumns; ++j) {
        s.d[i][j] = weight<Tile>(s.d[i][j] - base) * left(i, j);
        total += s.d[i][j];
      }
      sum[i] = sum[i] * factor[i] + total;
    }
    if (warp_all(same)) return;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
#pragma unroll
      for (int e = 0; e < int(sizeof(sums.d[0]) / sizeof(A)); ++e) sums.d[i][e] *= factor[i];
    }
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    core_fwd_kernel(const __grid_constant__ FwdArgs args) {
  using T = typename Tile::T;
  using A = typename Tile::A;
  constexpr int kHeld = Tile::kHeld;
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

  int row[kHeld], begin[kHeld], end[kHeld];
  A q2[kHeld] = {};
  OnlineSoftmax<Tile> softmax;
  bool alive = false;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int r = Tile::row(i);
    row[i] = m.queries.row[r], begin[i] = m.queries.begin[r], end[i] = m.queries.end[r];
    alive = alive || row[i] >= 0;
  }
  alive = warp_any(alive);
  const int64_t first_row = w.head * a.nq;
  if (w.part.first == 0) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (row[i] < 0) continue;
      const int64_t at = first_row + row[i];
      softmax.max[i] = static_cast<const A*>(args.running.max)[at];
      softmax.sum[i] = Tile::leads() ? static_cast<const A*>(args.running.sum)[at] : A(0);
      const A* const sums = static_cast<const A*>(args.running.sums) + at * args.running.ld;
      for_dims<Tile, Tile::kWidth>(a.dv, [&](int e, int dim) {
        const auto piece = load_vec<Tile::kAdjacent>(sums + dim);
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) softmax.sums.d[i][e + n] = piece[n];
      });
    }
  }
  if (columns.entries > 0 && a.list.with_var) {
    cp_async_wait<0>();
    syncthreads();
    m.queries.square(a, m.q);
    syncthreads();
#pragma unroll
    for (int i = 0; i < kHeld; ++i) q2[i] = m.queries.q2[Tile::row(i)];
  }

  while (columns.has(block)) {
    cp_async_wait<0>();
    syncthreads();  // q and k are there, and nobody reads v
    columns.load_v(m.v, block);
    cp_async_commit();
    bool reads = alive && block.listed;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      reads = reads || (!block.listed && begin[i] < block.at + Tile::kColumns && end[i] > block.at);
    }
    reads = warp_any(reads);
    typename Tile::Scores s;
    if (reads) Tile::outer(s, m.q, m.k, a.d);
    syncthreads();  // nobody reads k
    const Block next = columns.next(m.queries, block);
    fetch(next, use ^ 1);
    cp_async_commit();
    if (reads && block.listed) {
      const auto& entries = m.entries[use];
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kHeldColumns; ++j) {
          const int c = Tile::column(j);
          s.d[i][j] =
              entries.score(c, s.d[i][j], A(a.scale), q2[i], entries.left(c, begin[i], end[i]));
        }
      }
      softmax.add(s, [&](int i, int j) { return entries.left(Tile::column(j), begin[i], end[i]); });
    } else if (reads) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kHeldColumns; ++j) {
          const int at = block.at + Tile::column(j);
          s.d[i][j] = at >= begin[i] && at < end[i] ? s.d[i][j] * A(a.scale) : -A(INFINITY);
        }
      }
      softmax.add(s, [](int, int) { return A(1); });
    }
    cp_async_wait<1>();
    // v is there, and says whether rows that do not see it must be kept from it.
    const bool finite = block_all(loaded_finite<Tile, Tile::kColumns>(m.v));
    if (reads && finite) {
      Tile::template accumulate<Tile::kWidth>(softmax.sums, s, m.v, a.dv, m.scratch);
    } else if (reads) {
      Tile::template accumulate_sparse<Tile::kWidth>(softmax.sums, s, m.v, a.dv, m.scratch);
    }
    block = next, use ^= 1;
  }
  cp_async_wait<0>();

#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const A sum = Tile::across(softmax.sum[i], [](A x, A y) { return x + y; });
    if (row[i] < 0) continue;
    const int64_t at = first_row + row[i];
    const A max = softmax.max[i];
    if (w.part.last != 0) {
      const bool empty = sum == 0 && max == -A(INFINITY);
      const A scale = empty ? A(0) : A(1) / sum;
      if (Tile::leads()) {
        static_cast<A*>(args.lse)[at] = empty ? max : max + A(log(sum));
      }
      T* const out = static_cast<T*>(args.out) + at * a.dv;
      for_dims<Tile, Tile::kWidth>(a.dv, [&](int e, int dim) {
        Vec<T, Tile::kAdjacent> piece;
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) {
          piece[n] = from_float<T>(softmax.sums.d[i][e + n] * scale);
        }
        if (a.dv % Tile::kAdjacent == 0) {
          store_vec(out + dim, piece);
        } else {
#pragma unroll
          for (int n = 0; n < Tile::kAdjacent; ++n) {
            if (dim + n < a.dv) out[dim + n] = piece[n];
          }
        }
      });
    } else {
      if (Tile::leads()) {
        static_cast<A*>(args.running.max)[at] = max, static_cast<A*>(args.running.sum)[at] = sum;
      }
      A* const sums = static_cast<A*>(args.running.sums) + at * args.running.ld;
      for_dims<Tile, Tile::kWidth>(a.dv, [&](int e, int dim) {
        Vec<A, Tile::kAdjacent> piece;
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) piece[n] = softmax.sums.d[i][e + n];
        store_vec(sums + dim, piece);
      });
    }
  }
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
