// One tile of queries in the backward pass, against blocks of keys or list entries.
//
//   p = left e^(x - lse)   ds = p (dout . v - delta)   delta = dout . out - dlse
//   dq = scale ds k + (sum ds var) scale^2 q   dk = scale ds^T q   dv = p^T dout
//   of an entry also dlogw = sum ds, dvar = sum ds q2
//
// lse is that of everything the query looked at, so leaves, nodes and lists need no order. One
// visit of a tile to a block of columns takes all five products.
#pragma once

#include <algorithm>

#include "attention/tiles.h"

namespace thrifty::attention {

// What backward knows of one query head.
struct HeadGrads {
  Rows q, dout;
  const std::byte *lse, *delta;  // T [nq]
};

// Gradients of loaded columns, added to: T k [columns, k_ld], v [columns, v_ld], with kColumnSlack
// rows that products may touch behind them.
struct ColumnGrads {
  std::byte *k, *v, *logw, *var;  // the last two null: not wanted
};

// Gradients of a tile's queries, added to: T dq [kTileRows, k_ld] of k's scores, T dq2 [kTileRows].
struct RowGrads {
  std::byte *q, *q2;
};

class BackwardTile {
 public:
  explicit BackwardTile(const Problem& problem);

  // Columns that the tiles which follow meet: their panels serve all of them.
  void load_keys(const NodeKeys& keys, int64_t first, int64_t columns);
  void load_list(const List& list, int64_t block);
  void begin(const HeadGrads& head, const int32_t* rows, int64_t count);
  // The tile against columns [from, to) of the loaded keys, or, with from = 0, the loaded entries.
  // begin and end: the sorted keys of each row's window, which hide entries that they hold.
  void add(int64_t from, int64_t to, const int32_t* begin, const int32_t* end, ColumnGrads columns,
           RowGrads rows);
  // dq[rows[i]] += what RowGrads hold.
  void save(const HeadGrads& head, const int32_t* rows, int64_t count, RowGrads grads,
            std::byte* dq) const;

  int64_t k_ld() const { return k_ld_; }
  int64_t v_ld() const { return v_ld_; }
  static constexpr int64_t kColumnSlack = 32;
  // `from` of add is a multiple of this.
  int64_t granularity() const { return std::max(kit_.gemm.nr, kit_.gemm.depth); }

 private:
  void load(int64_t columns, const std::byte* k, int64_t k_ld, const std::byte* v, int64_t v_ld);
  void scores(ScoreBlock block, int64_t from, std::byte* dlogw, std::byte* dvar, std::byte* dq2);

  const Problem& p_;
  Kit kit_;
  int64_t q_ld_, o_ld_, s_ld_, p_ld_, k_ld_, v_ld_;
  int64_t count_ = 0, first_ = 0, columns_ = 0, block_ = 0;
  const List* list_ = nullptr;
  Scratch q_, dout_, q_panels_, dout_panels_, lse_, delta_, q2_;
  Scratch keys_, values_, k_panels_, v_panels_, k_row_panels_;
  Scratch s_, dp_, p_scratch_, ds_;
  void *probabilities_, *dscores_;
  std::vector<int32_t> begin_, end_;
};

}  // namespace thrifty::attention
