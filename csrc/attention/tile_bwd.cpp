#include "attention/tile_bwd.h"

#include <algorithm>
#include <cstring>

namespace thrifty::attention {
namespace {

constexpr int64_t kSlack = 32;

void clear(Scratch& scratch, int64_t bytes) { std::memset(scratch.data(), 0, size_t(bytes)); }

}  // namespace

BackwardTile::BackwardTile(const Problem& problem)
    : p_(problem),
      kit_(problem.dtype),
      q_ld_(round_up(p_.d, kit_.gemm.depth)),
      o_ld_(round_up(p_.dv, kit_.gemm.depth)),
      s_ld_(kTileColumns + 16),
      p_ld_(kit_.sums_are_operands() ? s_ld_ : kTileColumns + kSlack),
      k_ld_(round_up(p_.d, kSlack)),
      v_ld_(round_up(p_.dv, kSlack)),
      q_(kTileRows * q_ld_ * kit_.operand),
      dout_(kTileRows * o_ld_ * kit_.operand),
      q_panels_(kit_.gemm.panels_bytes(kTileRows, p_.d)),
      dout_panels_(kit_.gemm.panels_bytes(kTileRows, p_.dv)),
      lse_(kTileRows * kit_.sum),
      delta_(kTileRows * kit_.sum),
      q2_(kTileRows * kit_.sum),
      keys_(kTileColumns * q_ld_ * kit_.operand),
      values_(kTileColumns * o_ld_ * kit_.operand),
      k_panels_(kit_.gemm.panels_bytes(p_.d, kTileColumns)),
      v_panels_(kit_.gemm.panels_bytes(p_.dv, kTileColumns)),
      k_row_panels_(kit_.gemm.panels_bytes(kTileColumns, p_.d)),
      s_((kTileRows + 1) * s_ld_ * kit_.sum),
      dp_((kTileRows + 1) * s_ld_ * kit_.sum),
      p_scratch_((kTileRows + 1) * p_ld_ * kit_.operand),
      ds_((kTileRows + 1) * p_ld_ * kit_.operand),
      probabilities_(kit_.sums_are_operands() ? s_.data() : p_scratch_.data()),
      dscores_(kit_.sums_are_operands() ? dp_.data() : ds_.data()),
      begin_(kTileRows),
      end_(kTileRows) {
  // Rows that a tile lacks are multiplied too, by zeros or for nothing: they have to be finite.
  clear(q_, kTileRows * q_ld_ * kit_.operand), clear(dout_, kTileRows * o_ld_ * kit_.operand);
  clear(q2_, kTileRows * kit_.sum);
  clear(s_, (kTileRows + 1) * s_ld_ * kit_.sum), clear(dp_, (kTileRows + 1) * s_ld_ * kit_.sum);
  clear(p_scratch_, (kTileRows + 1) * p_ld_ * kit_.operand);
  clear(ds_, (kTileRows + 1) * p_ld_ * kit_.operand);
}

void BackwardTile::load(int64_t columns, const std::byte* k, int64_t k_ld, const std::byte* v,
                        int64_t v_ld) {
  columns_ = columns;
  kit_.gemm.pack_operand(p_.d, columns, {k, 1, k_ld}, k_panels_.data());
  kit_.gemm.pack_operand(columns, p_.d, {k, k_ld, 1}, k_row_panels_.data());
  kit_.gemm.pack_operand(p_.dv, columns, {v, 1, v_ld}, v_panels_.data());
}

void BackwardTile::load_keys(const NodeKeys& keys, int64_t first, int64_t columns) {
  list_ = nullptr, first_ = first;
  const int32_t* order = keys.order == nullptr ? nullptr : keys.order + first;
  const auto gather = [&](Rows from, int64_t width, Scratch& to, int64_t ld) {
    const Rows base = order == nullptr ? from.from(first, kit_.size) : from;
    kit_.tile.gather(columns, width, base.data, base.stride, order, to.data(), ld);
  };
  gather(keys.k, p_.d, keys_, q_ld_), gather(keys.v, p_.dv, values_, o_ld_);
  load(columns, keys_.data(), q_ld_, values_.data(), o_ld_);
}

void BackwardTile::load_list(const List& list, int64_t block) {
  list_ = &list, block_ = block;
  const int64_t first = block * kTileColumns;
  load(list.columns(block), list.k.data() + first * list.k_ld * kit_.operand, list.k_ld,
       list.v.data() + first * list.v_ld * kit_.operand, list.v_ld);
}

void BackwardTile::begin(const HeadGrads& head, const int32_t* rows, int64_t count) {
  count_ = count;
  kit_.tile.gather(count, p_.d, head.q.data, head.q.stride, rows, q_.data(), q_ld_);
  kit_.tile.gather(count, p_.dv, head.dout.data, head.dout.stride, rows, dout_.data(), o_ld_);
  kit_.gemm.pack_operand(count, p_.d, {q_.data(), q_ld_, 1}, q_panels_.data());
  kit_.gemm.pack_operand(count, p_.dv, {dout_.data(), o_ld_, 1}, dout_panels_.data());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows[i];
    std::memcpy(lse_.data() + i * kit_.sum, head.lse + row * kit_.sum, size_t(kit_.sum));
    std::memcpy(delta_.data() + i * kit_.sum, head.delta + row * kit_.sum, size_t(kit_.sum));
  }
  if (list_ == nullptr || !list_->with_var) return;
  const double half = p_.scale * p_.scale / 2;
  for (int64_t i = 0; i < count; ++i) {
    const void* q = head.q.from(rows[i], kit_.size).data;
    const double q2 = half * kit_.tile.dot_stored(p_.d, q, q);
    if (kit_.sum == 8) {
      q2_.as<double>()[i] = q2;
    } else {
      q2_.as<float>()[i] = float(q2);
    }
  }
}

void BackwardTile::scores(ScoreBlock block, int64_t from, std::byte* dlogw, std::byte* dvar,
                          std::byte* dq2) {
  const int64_t panel = from / kit_.gemm.nr;
  kit_.gemm.gemm(count_, block.columns, p_.d, q_.data(), q_ld_,
                 k_panels_.data() + panel * kit_.gemm.panel_bytes(p_.d), s_.data(), s_ld_, false);
  kit_.gemm.gemm(count_, block.columns, p_.dv, dout_.data(), o_ld_,
                 v_panels_.data() + panel * kit_.gemm.panel_bytes(p_.dv), dp_.data(), s_ld_, false);
  block.rows = count_;
  // Zeros as far as products over columns and over rows of the transpose read.
  block.padded = round_up(round_up(block.columns, kit_.gemm.mr), kit_.gemm.depth);
  block.s = s_.data(), block.ld = s_ld_, block.p = probabilities_, block.p_ld = p_ld_;
  block.scale = p_.scale, block.begin = begin_.data(), block.end = end_.data();
  block.q2 = q2_.data();
  kit_.tile.softmax_grad(block,
                         {dp_.data(), lse_.data(), delta_.data(), dscores_, dlogw, dvar, dq2});
  // What the products with the transpose read behind the last row meets zeros, and must be finite.
  const int64_t rest = round_up(count_, kit_.gemm.depth) - count_;
  for (void* rows : {probabilities_, dscores_}) {
    std::memset(static_cast<std::byte*>(rows) + count_ * p_ld_ * kit_.operand, 0,
                size_t(rest * p_ld_ * kit_.operand));
  }
}

void BackwardTile::add(int64_t from, int64_t to, const int32_t* begin, const int32_t* end,
                       ColumnGrads columns, RowGrads rows) {
  ScoreBlock block{};
  if (list_ != nullptr) {
    block = list_->score_block(kit_, block_);
    block.window = begin, block.window_end = end;
    std::fill(begin_.begin(), begin_.end(), 0);
    std::fill(end_.begin(), end_.end(), int32_t(to));
  } else {
    const auto shift = int32_t(first_ + from);
    for (int64_t i = 0; i < count_; ++i) {
      begin_[size_t(i)] = begin[i] - shift, end_[size_t(i)] = end[i] - shift;
    }
  }
  block.columns = to - from;
  scores(block, from, columns.logw, columns.var, columns.var == nullptr ? nullptr : rows.q2);
  const GemmKernels& gemm = kit_.gemm;
  gemm.gemm_t(to - from, p_.d, count_, dscores_, p_ld_, q_panels_.data(), columns.k, k_ld_, true);
  gemm.gemm_t(to - from, p_.dv, count_, probabilities_, p_ld_, dout_panels_.data(), columns.v,
              v_ld_, true);
  // A panel of the keys' rows holds all columns; this product starts inside it.
  for (int64_t j = 0; j < p_.d; j += gemm.nr) {
    const std::byte* panel = k_row_panels_.data() + j / gemm.nr * gemm.panel_bytes(columns_);
    gemm.gemm(count_, std::min(gemm.nr, p_.d - j), to - from, dscores_, p_ld_,
              panel + from * gemm.nr * kit_.operand, rows.q + j * kit_.sum, k_ld_, true);
  }
}

void BackwardTile::save(const HeadGrads& head, const int32_t* rows, int64_t count, RowGrads grads,
                        std::byte* dq) const {
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* dq2_at = grads.q2 + i * kit_.sum;
    const double dq2 = kit_.sum == 8 ? *reinterpret_cast<const double*>(dq2_at)
                                     : double(*reinterpret_cast<const float*>(dq2_at));
    std::byte* to = dq + rows[i] * p_.d * kit_.sum;
    kit_.tile.add(p_.d, p_.scale, grads.q + i * k_ld_ * kit_.sum, to);
    if (dq2 == 0) continue;
    // d(q2) / dq = scale^2 q
    kit_.tile.add_stored(p_.d, p_.scale * p_.scale * dq2, head.q.from(rows[i], kit_.size).data, to);
  }
}

}  // namespace thrifty::attention
