#include "attention/tile_bwd.h"

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
      dq2_(kTileRows * kit_.sum),
      dq_(kTileRows * k_ld_ * kit_.sum),
      keys_(kTileColumns * std::max(q_ld_, o_ld_) * kit_.operand),
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
  clear(s_, (kTileRows + 1) * s_ld_ * kit_.sum), clear(dp_, (kTileRows + 1) * s_ld_ * kit_.sum);
  clear(p_scratch_, (kTileRows + 1) * p_ld_ * kit_.operand);
  clear(ds_, (kTileRows + 1) * p_ld_ * kit_.operand);
}

void BackwardTile::begin(const HeadGrads& head, const int32_t* rows, int64_t count) {
  rows_ = rows, count_ = count;
  kit_.tile.gather(count, p_.d, head.q.data, head.q.stride, rows, q_.data(), q_ld_);
  kit_.tile.gather(count, p_.dv, head.dout.data, head.dout.stride, rows, dout_.data(), o_ld_);
  kit_.gemm.pack_operand(count, p_.d, {q_.data(), q_ld_, 1}, q_panels_.data());
  kit_.gemm.pack_operand(count, p_.dv, {dout_.data(), o_ld_, 1}, dout_panels_.data());
  clear(dq_, kTileRows * k_ld_ * kit_.sum), clear(dq2_, kTileRows * kit_.sum);
  const double half = p_.scale * p_.scale / 2;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows[i];
    std::memcpy(lse_.data() + i * kit_.sum, head.lse + row * kit_.sum, size_t(kit_.sum));
    std::memcpy(delta_.data() + i * kit_.sum, head.delta + row * kit_.sum, size_t(kit_.sum));
    const void* q = head.q.from(row, kit_.size).data;
    const double q2 = half * kit_.tile.dot_stored(p_.d, q, q);
    if (kit_.sum == 8) {
      q2_.as<double>()[i] = q2;
    } else {
      q2_.as<float>()[i] = float(q2);
    }
  }
}

void BackwardTile::load_keys(const NodeKeys& keys, int64_t first, int64_t columns,
                             bool for_queries) {
  first_ = first, columns_ = columns;
  const int32_t* order = keys.order == nullptr ? nullptr : keys.order + first;
  const auto load = [&](Rows from, int64_t width, int64_t ld) {
    const Rows base = order == nullptr ? from.from(first, kit_.size) : from;
    kit_.tile.gather(columns, width, base.data, base.stride, order, keys_.data(), ld);
  };
  load(keys.k, p_.d, q_ld_);
  kit_.gemm.pack_operand(p_.d, columns, {keys_.data(), 1, q_ld_}, k_panels_.data());
  if (for_queries) {
    kit_.gemm.pack_operand(columns, p_.d, {keys_.data(), q_ld_, 1}, k_row_panels_.data());
  }
  load(keys.v, p_.dv, o_ld_);
  kit_.gemm.pack_operand(p_.dv, columns, {keys_.data(), 1, o_ld_}, v_panels_.data());
}

void BackwardTile::scores(ScoreBlock block, int64_t from, const int32_t* begin, const int32_t* end,
                          std::byte* dlogw, std::byte* dvar) {
  const int64_t panel = from / kit_.gemm.nr;
  kit_.gemm.gemm(count_, block.columns, p_.d, q_.data(), q_ld_,
                 k_panels_.data() + panel * kit_.gemm.panel_bytes(p_.d), s_.data(), s_ld_, false);
  kit_.gemm.gemm(count_, block.columns, p_.dv, dout_.data(), o_ld_,
                 v_panels_.data() + panel * kit_.gemm.panel_bytes(p_.dv), dp_.data(), s_ld_, false);
  block.rows = count_;
  // Zeros as far as products over columns and over rows of the transpose read.
  block.padded = round_up(round_up(block.columns, kit_.gemm.mr), kit_.gemm.depth);
  block.s = s_.data(), block.ld = s_ld_, block.p = probabilities_, block.p_ld = p_ld_;
  block.scale = p_.scale, block.begin = begin, block.end = end, block.q2 = q2_.data();
  kit_.tile.softmax_grad(block, {dp_.data(), lse_.data(), delta_.data(), dscores_, dlogw, dvar,
                                 dvar == nullptr ? nullptr : dq2_.data()});
  // What the products with the transpose read behind the last row meets zeros, and must be finite.
  const int64_t rest = round_up(count_, kit_.gemm.depth) - count_;
  for (void* rows : {probabilities_, dscores_}) {
    std::memset(static_cast<std::byte*>(rows) + count_ * p_ld_ * kit_.operand, 0,
                size_t(rest * p_ld_ * kit_.operand));
  }
}

void BackwardTile::add_columns(int64_t columns, ColumnGrads grads) {
  kit_.gemm.gemm_t(columns, p_.d, count_, dscores_, p_ld_, q_panels_.data(), grads.k, k_ld_, true);
  kit_.gemm.gemm_t(columns, p_.dv, count_, probabilities_, p_ld_, dout_panels_.data(), grads.v,
                   v_ld_, true);
}

void BackwardTile::add_key_grads(int64_t from, int64_t to, const int32_t* begin, const int32_t* end,
                                 ColumnGrads grads) {
  for (int64_t i = 0; i < count_; ++i) {
    begin_[size_t(i)] = int32_t(begin[i] - first_ - from);
    end_[size_t(i)] = int32_t(end[i] - first_ - from);
  }
  ScoreBlock block{};
  block.columns = to - from;
  scores(block, from, begin_.data(), end_.data(), nullptr, nullptr);
  add_columns(to - from, {grads.k + from * k_ld_ * kit_.sum, grads.v + from * v_ld_ * kit_.sum,
                          nullptr, nullptr});
}

void BackwardTile::add_query_grads(const int32_t* begin, const int32_t* end) {
  for (int64_t i = 0; i < count_; ++i) {
    begin_[size_t(i)] = int32_t(begin[i] - first_), end_[size_t(i)] = int32_t(end[i] - first_);
  }
  ScoreBlock block{};
  block.columns = columns_;
  scores(block, 0, begin_.data(), end_.data(), nullptr, nullptr);
  kit_.gemm.gemm(count_, p_.d, columns_, dscores_, p_ld_, k_row_panels_.data(), dq_.data(), k_ld_,
                 true);
}

void BackwardTile::add_list(const List& list, int64_t index, const int32_t* begin,
                            const int32_t* end, ColumnGrads grads) {
  ScoreBlock block = list.score_block(kit_, index);
  block.window = begin, block.window_end = end;
  const int64_t first = index * kTileColumns, columns = block.columns;
  const std::byte* k = list.k.data() + first * list.k_ld * kit_.operand;
  const std::byte* v = list.v.data() + first * list.v_ld * kit_.operand;
  kit_.gemm.pack_operand(p_.d, columns, {k, 1, list.k_ld}, k_panels_.data());
  kit_.gemm.pack_operand(columns, p_.d, {k, list.k_ld, 1}, k_row_panels_.data());
  kit_.gemm.pack_operand(p_.dv, columns, {v, 1, list.v_ld}, v_panels_.data());
  std::fill(begin_.begin(), begin_.end(), 0);
  std::fill(end_.begin(), end_.end(), int32_t(columns));
  scores(block, 0, begin_.data(), end_.data(), grads.logw, grads.var);
  kit_.gemm.gemm(count_, p_.d, columns, dscores_, p_ld_, k_row_panels_.data(), dq_.data(), k_ld_,
                 true);
  add_columns(columns, grads);
}

void BackwardTile::save(std::byte* dq, int64_t stride) {
  for (int64_t i = 0; i < count_; ++i) {
    const double dq2 = kit_.sum == 8 ? dq2_.as<double>()[i] : double(dq2_.as<float>()[i]);
    std::byte* to = dq + rows_[i] * stride * kit_.sum;
    kit_.tile.add(p_.d, p_.scale, dq_.data() + i * k_ld_ * kit_.sum, to);
    if (dq2 == 0) continue;
    // d(q2) / dq = scale^2 q, from the operand, which is q itself.
    kit_.tile.add_operand(p_.d, p_.scale * p_.scale * dq2, q_.data() + i * q_ld_ * kit_.operand,
                          to);
  }
}

}  // namespace thrifty::attention
