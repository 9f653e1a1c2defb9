// The rows of a tile that a thread holds a part of, from their windows to `out` and `lse`: what the
// forward kernels have in common, whatever multiplies.
#pragma once

#include "attention/core_fwd.h"
#include "attention/core_rows.cuh"

namespace thrifty::attention::cuda {

template <class Tile>
struct OnlineSoftmax {
  using A = typename Tile::A;
  static constexpr int kHeld = Tile::kHeld;
  A max[kHeld], sum[kHeld];  // sum: this thread's columns only
  typename Tile::template Sums<Tile::kWidth> sums;

  THRIFTY_DEVICE OnlineSoftmax() {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      max[i] = -A(INFINITY), sum[i] = 0;
#pragma unroll
      for (int e = 0; e < sums.kColumns; ++e) sums.at(i, e) = 0;
    }
  }

  // s: scores, -infinity for what is hidden; becomes the weights.
  THRIFTY_DEVICE void add(typename Tile::Scores& s) {
    A factor[kHeld];
    bool same = true;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      A top = max[i];
#pragma unroll
      for (int j = 0; j < Tile::kHeldColumns; ++j) top = fmax(top, s.at(i, j));  // but for NaN
      top = Tile::across(top, [](A x, A y) { return fmax(x, y); });
      const A base = top == -A(INFINITY) ? A(0) : top;
      factor[i] = top == max[i] ? A(1) : weight<Tile>(max[i] - base);
      same = same && top == max[i];
      max[i] = top;
      A total = 0;
#pragma unroll
      for (int j = 0; j < Tile::kHeldColumns; ++j) {
        s.at(i, j) = weight<Tile>(s.at(i, j) - base);
        total += s.at(i, j);
      }
      sum[i] = sum[i] * factor[i] + total;
    }
    if (warp_all(same)) return;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
#pragma unroll
      for (int e = 0; e < sums.kColumns; ++e) sums.at(i, e) *= factor[i];
    }
  }
};

template <class Tile>
struct FwdRows {
  using T = typename Tile::T;
  using A = typename Tile::A;
  static constexpr int kHeld = Tile::kHeld;
  int row[kHeld], begin[kHeld], end[kHeld];  // -1: no query; its window
  A q2[kHeld] = {};
  // Of the rows that are multiplied together: whether there is a query, and from the first to the
  // last key that windows hold.
  bool alive = false;
  int low = INT32_MAX, high = 0;
  OnlineSoftmax<Tile> softmax;

  template <class Queries>
  THRIFTY_DEVICE explicit FwdRows(const Queries& queries) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int r = Tile::row(i);
      row[i] = queries.row[r], begin[i] = queries.begin[r], end[i] = queries.end[r];
    }
    const int first = Tile::row(0) / Tile::kTogether * Tile::kTogether;
    for (int r = first + lane_index(); r < first + Tile::kTogether; r += kWarpSize) {
      alive = alive || queries.row[r] >= 0;
      const int from = queries.begin[r], to = queries.end[r];
      if (from < to) low = from < low ? from : low, high = to > high ? to : high;
    }
    alive = warp_any(alive);
    low = -warp_max(-low), high = warp_max(high);
  }
  THRIFTY_DEVICE bool reads(const Block& block) const {
    return block.listed ? alive : block.at < high && block.at + Tile::kColumns > low;
  }

  // What the stages before have summed up.
  THRIFTY_DEVICE void resume(const FwdArgs& args, const Work& w) {
    if (w.part.first != 0) return;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (row[i] < 0) continue;
      const int64_t at = w.head * args.core.nq + row[i];
      softmax.max[i] = static_cast<const A*>(args.running.max)[at];
      softmax.sum[i] = Tile::leads() ? static_cast<const A*>(args.running.sum)[at] : A(0);
      const A* const sums = static_cast<const A*>(args.running.sums) + at * args.running.ld;
      for_dims<Tile, Tile::kWidth>(args.core.dv, [&](int e, int dim) {
        const auto piece = load_vec<Tile::kAdjacent>(sums + dim);
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) softmax.sums.at(i, e + n) = piece[n];
      });
    }
  }

  // s: products of the rows with a block, and of the list `entries`; becomes weights. As a rule no
  // window holds a key that some entry stands for: then all entries count in full.
  template <class Entries>
  THRIFTY_DEVICE void weigh(typename Tile::Scores& s, const Block& block, A scale,
                            const Entries& entries) {
    if (whole(block)) {
      scores(s, [&](int i, int j) { return s.at(i, j) * scale; });
    } else if (!block.listed) {
      scores(s, [&](int i, int j) {
        const int at = block.at + Tile::column(j);
        return at >= begin[i] && at < end[i] ? s.at(i, j) * scale : -A(INFINITY);
      });
    } else if (!entries.any_within(low, high)) {
      scores(s, [&](int i, int j) {
        return entries.score(Tile::column(j), s.at(i, j), scale, q2[i], A(1));
      });
    } else {
      scores(s, [&](int i, int j) {
        const int column = Tile::column(j);
        const A left = entries.left(column, begin[i], end[i]);
        const A x = entries.score(column, s.at(i, j), scale, q2[i], left);
        return left > 0 && left < 1 ? x + log_share<Tile>(left) : x;
      });
    }
    softmax.add(s);
  }

  // out and lse, or the sums for the next stage.
  THRIFTY_DEVICE void finish(const FwdArgs& args, const Work& w) const {
    const CoreArgs& a = args.core;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const A sum = Tile::across(softmax.sum[i], [](A x, A y) { return x + y; });
      if (row[i] < 0) continue;
      const int64_t at = w.head * a.nq + row[i];
      if (w.part.last != 0) {
        write(args, i, at, sum);
      } else {
        keep(args, i, at, sum);
      }
    }
  }

 private:
  // Whether all of the warp's rows see all of a block of keys.
  THRIFTY_DEVICE bool whole(const Block& block) const {
    bool all = !block.listed;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      all = all && begin[i] <= block.at && end[i] >= block.at + Tile::kColumns;
    }
    return warp_all(all);
  }
  template <class Score>
  static THRIFTY_DEVICE void scores(typename Tile::Scores& s, const Score& score) {
#pragma unroll
    for (int j = 0; j < Tile::kHeldColumns; ++j) {
#pragma unroll
      for (int i = 0; i < kHeld; ++i) s.at(i, j) = score(i, j);
    }
  }
  THRIFTY_DEVICE void write(const FwdArgs& args, int i, int64_t at, A sum) const {
    const int dv = args.core.dv;
    const A max = softmax.max[i];
    const bool empty = sum == 0 && max == -A(INFINITY);
    const A scale = empty ? A(0) : A(1) / sum;
    if (Tile::leads()) static_cast<A*>(args.lse)[at] = empty ? max : max + A(log(sum));
    T* const out = static_cast<T*>(args.out) + at * dv;
    for_dims<Tile, Tile::kWidth>(dv, [&](int e, int dim) {
      Vec<T, Tile::kAdjacent> piece;
#pragma unroll
      for (int n = 0; n < Tile::kAdjacent; ++n) {
        piece[n] = from_float<T>(softmax.sums.at(i, e + n) * scale);
      }
      if (dv % Tile::kAdjacent == 0) {
        store_vec(out + dim, piece);
      } else {
#pragma unroll
        for (int n = 0; n < Tile::kAdjacent; ++n) {
          if (dim + n < dv) out[dim + n] = piece[n];
        }
      }
    });
  }
  THRIFTY_DEVICE void keep(const FwdArgs& args, int i, int64_t at, A sum) const {
    if (Tile::leads()) {
      static_cast<A*>(args.running.max)[at] = softmax.max[i];
      static_cast<A*>(args.running.sum)[at] = sum;
    }
    A* const sums = static_cast<A*>(args.running.sums) + at * args.running.ld;
    for_dims<Tile, Tile::kWidth>(args.core.dv, [&](int e, int dim) {
      Vec<A, Tile::kAdjacent> piece;
#pragma unroll
      for (int n = 0; n < Tile::kAdjacent; ++n) piece[n] = softmax.sums.at(i, e + n);
      store_vec(sums + dim, piece);
    });
  }
};

}  // namespace thrifty::attention::cuda
