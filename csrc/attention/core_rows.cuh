// A tile's queries and its columns, keys or entries of a list, as both passes see them.
#pragma once

#include "attention/core_tile.cuh"
#include "attention/core_window.cuh"

namespace thrifty::attention::cuda {

template <class T>
THRIFTY_DEVICE const T* head_of(const CoreRows& rows, int64_t head, int heads) {
  return static_cast<const T*>(rows.data) + head / heads * rows.batch + head % heads * rows.head;
}

// What a block works on.
struct Work {
  const CorePart& part;
  int64_t head, key_head;

  THRIFTY_DEVICE Work(const CoreArgs& a, int part, int head)
      : part(a.parts[part]),
        head(head),
        key_head(head / a.q_heads * a.k_heads + head % a.q_heads / (a.q_heads / a.k_heads)) {}
};

// kRows queries of a part and their windows, in shared memory.
template <class Tile, int kRows>
struct Queries {
  using A = typename Tile::A;
  int row[kRows];  // of the packed queries; -1: none
  int begin[kRows], end[kRows];
  A q2[kRows];  // scale^2 |q|^2 / 2

  // Those from place `first` on; a barrier follows.
  THRIFTY_DEVICE void find(const CoreArgs& a, const Work& w, int first) {
    for (int i = int(threadIdx.x); i < kRows; i += Tile::kThreads) {
      const int at = first + i;
      row[i] = -1, begin[i] = end[i] = 0;
      if (at >= w.part.queries) continue;
      const int query = query_at(a, w.part, w.head, at);
      const Window window = window_of(a, w.part, w.head, w.key_head, at, query);
      row[i] = w.part.q_begin + query, begin[i] = window.begin, end[i] = window.end;
    }
  }
  // From the rows of q in shared memory; a barrier before and after.
  THRIFTY_DEVICE void square(const CoreArgs& a, const typename Tile::T* q) {
    constexpr int kLanes = Tile::kThreads / kRows;  // of a row, neighbours in a warp
    const int i = int(threadIdx.x) / kLanes;
    A sum = 0;
    for (int c = int(threadIdx.x) % kLanes; c < a.d; c += kLanes) {
      const A value = A(to_float(q[i * Tile::kLd + c]));
      sum += value * value;
    }
#pragma unroll
    for (int bits = 1; bits < kLanes; bits *= 2) sum += shfl_xor(sum, bits);
    if (threadIdx.x % kLanes == 0) q2[i] = A(a.scale) * A(a.scale) / 2 * sum;
  }
  // The first block of kColumns keys from `from` on that some query reads; `none` without one.
  // Every warp finds it for itself.
  THRIFTY_DEVICE int next_block(int from, int none) const {
    int next = none;
    for (int i = lane_index(); i < kRows; i += kWarpSize) {
      const int low = begin[i] > from ? begin[i] : from;
      if (low < end[i] && low < next) next = low;
    }
#pragma unroll
    for (int bits = 1; bits < kWarpSize; bits *= 2) {
      const int other = shfl_xor(next, bits);
      next = other < next ? other : next;
    }
    return next == none ? none : next / Tile::kColumns * Tile::kColumns;
  }
};

// What entries of a list are beside keys and values, in shared memory.
template <class A, int kColumns>
struct Entries {
  A logw[kColumns], var[kColumns], share[kColumns];
  int at[kColumns], at_end[kColumns];

  // Entries from `first` of so many; a wait of cp.async and a barrier follow.
  template <int kThreads>
  THRIFTY_DEVICE void load(const ListRows& list, int64_t begin, int first, int entries) {
    for (int i = int(threadIdx.x); i < kColumns; i += kThreads) {
      const bool there = first + i < entries;
      const int64_t from = there ? begin + first + i : 0;
      const auto copy = [&](auto* to, const void* all) {
        using Value = std::remove_reference_t<decltype(*to)>;
        cp_async<sizeof(Value)>(to, static_cast<const Value*>(all) + from, there);
      };
      copy(var + i, list.var), copy(share + i, list.share);
      copy(at + i, list.at), copy(at_end + i, list.at_end);
      if (there) {
        copy(logw + i, list.logw);
      } else {
        logw[i] = -A(INFINITY);
      }
    }
  }
  // The part of an entry's keys that the window does not hold.
  THRIFTY_DEVICE A left(int i, int begin, int end) const {
    const int low = at[i] > begin ? at[i] : begin, high = at_end[i] < end ? at_end[i] : end;
    return high > low ? A(1) - A(high - low) * share[i] : A(1);
  }
  THRIFTY_DEVICE A score(int i, A product, A scale, A q2, A left) const {
    const A x = product * scale + logw[i] + q2 * var[i];
    return left > 0 ? x : -A(INFINITY);
  }
  // Whether an entry has keys between `begin` and `end`; all lanes of a warp call.
  THRIFTY_DEVICE bool any_within(int begin, int end) const {
    bool found = false;
    for (int i = lane_index(); i < kColumns; i += kWarpSize) {
      found = found || (at[i] < end && at_end[i] > begin);
    }
    return warp_any(found);
  }
};

// The block of columns that a tile reads next: keys of windows, then the list.
struct Block {
  int at;
  bool listed;
};

template <class Tile>
struct Columns {
  using T = typename Tile::T;
  static constexpr int kNone = INT32_MAX;
  const CoreArgs& a;
  const Work& w;
  int entries;

  THRIFTY_DEVICE Columns(const CoreArgs& a, const Work& w)
      : a(a), w(w), entries(w.part.buckets + w.part.kept + w.part.samples) {}

  template <class Queries>
  THRIFTY_DEVICE Block next(const Queries& queries, Block last) const {
    Block block{last.at + Tile::kColumns, last.listed};
    if (!block.listed) {
      const int at = queries.next_block(block.at, kNone);
      block = at == kNone ? Block{0, true} : Block{at, false};
    }
    return block;
  }
  THRIFTY_DEVICE bool has(const Block& block) const { return !block.listed || block.at < entries; }
  THRIFTY_DEVICE int64_t list_at() const { return w.key_head * a.list.total + w.part.list_at; }

  THRIFTY_DEVICE void load_k(T* tile, const Block& block) const {
    load(tile, a.k, a.d, a.list.k, a.list.k_ld, block);
  }
  THRIFTY_DEVICE void load_v(T* tile, const Block& block) const {
    load(tile, a.v, a.dv, a.list.v, a.list.v_ld, block);
  }

 private:
  THRIFTY_DEVICE void load(T* tile, const CoreRows& rows, int width, const void* list, int ld,
                           const Block& block) const {
    if (block.listed) {
      const T* const first = static_cast<const T*>(list) + (list_at() + block.at) * ld;
      load_tile<Tile, Tile::kColumns>(tile, list, ld, 16, [&](int i) -> const T* {
        return block.at + i < entries ? first + int64_t(i) * ld : nullptr;
      });
    } else {
      const T* const head = head_of<T>(rows, w.key_head, a.k_heads);
      load_tile<Tile, Tile::kColumns>(tile, rows.data, width, rows.bytes, [&](int i) -> const T* {
        if (block.at + i >= w.part.sorted) return nullptr;
        return head + int64_t(key_at(a, w.part, w.key_head, block.at + i)) * rows.row;
      });
    }
  }
};

template <class Tile, int kRows, class Queries>
THRIFTY_DEVICE void load_queries(typename Tile::T* tile, const CoreRows& rows, int width,
                                 int64_t head, int heads, const Queries& queries) {
  using T = typename Tile::T;
  const T* const first = head_of<T>(rows, head, heads);
  load_tile<Tile, kRows>(tile, rows.data, width, rows.bytes, [&](int i) -> const T* {
    return queries.row[i] < 0 ? nullptr : first + int64_t(queries.row[i]) * rows.row;
  });
}

THRIFTY_DEVICE float exponential(float x) { return expf(x); }
THRIFTY_DEVICE double exponential(double x) { return exp(x); }

// e^x, in the precision that scores of such operands have.
template <class Tile>
THRIFTY_DEVICE typename Tile::A weight(typename Tile::A x) {
  if constexpr (sizeof(typename Tile::T) == 2)
    return fast_exp(x);
  else
    return exponential(x);
}

// Of the share of an entry that counts, as precise.
template <class Tile>
THRIFTY_DEVICE typename Tile::A log_share(typename Tile::A x) {
  if constexpr (sizeof(typename Tile::T) == 2)
    return fast_log(x);
  else
    return log(x);
}

// Columns of a row in pieces that a thread holds: visit(e, dim) with kAdjacent elements from e on.
template <class Tile, int kDims, class Visit>
THRIFTY_DEVICE void for_dims(int dims, const Visit& visit) {
  constexpr int kHeldDims = int(sizeof(typename Tile::template Sums<kDims>)) /
                            int(sizeof(typename Tile::A)) / Tile::kHeld;
#pragma unroll
  for (int e = 0; e < kHeldDims; e += Tile::kAdjacent) {
    if (Tile::dim(e) < dims) visit(e, Tile::dim(e));
  }
}

}  // namespace thrifty::attention::cuda
