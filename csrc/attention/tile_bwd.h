// One tile of queries in the backward pass, against blocks of keys or list entries.
//
//   p = left e^(x - lse)   ds = p (dout . v - delta)   delta = dout . out - dlse
//   dq = scale ds k + (sum ds var) scale^2 q   dk = scale ds^T q   dv = p^T dout
//   of an entry also dlogw = sum ds, dvar = sum ds q2
//
// lse is that of everything the query looked at, so leaves, nodes and lists need no order.
#pragma once

#include "attention/tiles.h"

namespace thrifty::attention {

// What backward knows of one query head.
struct HeadGrads {
  Rows q, dout;
  const std::byte *lse, *delta;  // T [nq]
};

// Gradients of up to kTileColumns + slack columns: T k [columns, k_ld], v [columns, v_ld].
struct ColumnGrads {
  std::byte *k, *v, *logw, *var;  // the last two null: not wanted
};

class BackwardTile {
 public:
  explicit BackwardTile(const Problem& problem);

  void begin(const HeadGrads& head, const int32_t* rows, int64_t count);
  // Keys [first, first + columns) are the ones that follow; their panels serve many tiles.
  void load_keys(const NodeKeys& keys, int64_t first, int64_t columns, bool for_queries);
  // The tile against columns [from, to) of the loaded keys; begin and end are sorted keys.
  void add_key_grads(int64_t from, int64_t to, const int32_t* begin, const int32_t* end,
                     ColumnGrads grads);
  void add_query_grads(const int32_t* begin, const int32_t* end);
  // Both for a block of the list, of which the row's windows hide what they hold.
  void add_list(const List& list, int64_t block, const int32_t* begin, const int32_t* end,
                ColumnGrads grads);
  // dq[row] += what the tile has summed.
  void save(std::byte* dq, int64_t stride);

  int64_t k_ld() const { return k_ld_; }
  int64_t v_ld() const { return v_ld_; }
  // Rows of ColumnGrads that products may touch.
  static constexpr int64_t kColumnRows = kTileColumns + 32;
  // `from` of add_key_grads is a multiple of this.
  int64_t granularity() const { return kit_.gemm.nr; }

 private:
  void scores(ScoreBlock block, int64_t from, const int32_t* begin, const int32_t* end,
              std::byte* dlogw, std::byte* dvar);
  void add_columns(int64_t columns, ColumnGrads grads);

  const Problem& p_;
  Kit kit_;
  int64_t q_ld_, o_ld_, s_ld_, p_ld_, k_ld_, v_ld_;
  int64_t count_ = 0, first_ = 0, columns_ = 0;
  const int32_t* rows_ = nullptr;
  Scratch q_, dout_, q_panels_, dout_panels_, lse_, delta_, q2_, dq2_, dq_;
  Scratch keys_, k_panels_, v_panels_, k_row_panels_;
  Scratch s_, dp_, p_scratch_, ds_;
  void *probabilities_, *dscores_;
  std::vector<int32_t> begin_, end_;
};

}  // namespace thrifty::attention
