#include "attention/tile_fwd.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace thrifty::attention {
namespace {

constexpr int64_t kLanes = 16;  // of the widest vectors: blocks start where lanes do
constexpr double kInfinity = std::numeric_limits<double>::infinity();

template <class T>
void finish_as(const Problem& p, const std::byte* acc, const std::byte* max_, const std::byte* sum_,
               std::byte* out, std::byte* lse) {
  const T max = *reinterpret_cast<const T*>(max_), sum = *reinterpret_cast<const T*>(sum_);
  const bool empty = sum == 0 && max == T(-kInfinity);
  p.kit().tile.narrow(p.dv, acc, empty ? 0.0 : double(T(1) / sum), out);
  *reinterpret_cast<T*>(lse) = empty ? T(-kInfinity) : max + std::log(sum);
}

}  // namespace

void finish_row(const Problem& p, const std::byte* acc, const std::byte* max, const std::byte* sum,
                std::byte* out, std::byte* lse) {
  if (p.dtype == Dtype::kFloat64) return finish_as<double>(p, acc, max, sum, out, lse);
  finish_as<float>(p, acc, max, sum, out, lse);
}

ForwardTile::ForwardTile(const Problem& problem)
    : p_(problem),
      kit_(problem.dtype),
      q_ld_(round_up(p_.d, kit_.gemm.depth)),
      v_ld_(p_.dv),
      s_ld_(kTileColumns + kLanes),
      p_ld_(kit_.sums_are_operands() ? s_ld_ : kTileColumns + 32),
      acc_ld_(round_up(p_.dv, 32)),
      q_(kTileRows * q_ld_ * kit_.operand),
      keys_(kTileColumns * std::max(q_ld_, v_ld_) * kit_.operand),
      k_panels_(kit_.gemm.panels_bytes(p_.d, kTileColumns)),
      v_panels_(kit_.gemm.panels_bytes(kTileColumns, p_.dv)),
      s_(kTileRows * s_ld_ * kit_.sum),
      p_scratch_(kit_.sums_are_operands() ? 64 : kTileRows * p_ld_ * kit_.operand),
      acc_(kTileRows * acc_ld_ * kit_.sum),
      max_(kTileRows * kit_.sum),
      sum_(kTileRows * kit_.sum),
      q2_(kTileRows * kit_.sum),
      probabilities_(kit_.sums_are_operands() ? s_.data() : p_scratch_.data()),
      begin_(kTileRows),
      end_(kTileRows) {
  // Rows that a tile lacks are multiplied too.
  std::memset(q_.data(), 0, size_t(kTileRows * q_ld_ * kit_.operand));
  std::memset(s_.data(), 0, size_t(kTileRows * s_ld_ * kit_.sum));
  std::memset(p_scratch_.data(), 0,
              size_t(kit_.sums_are_operands() ? 64 : kTileRows * p_ld_ * kit_.operand));
}

void ForwardTile::begin(Rows q, const int32_t* rows, int64_t count) {
  rows_ = rows, count_ = count;
  kit_.tile.gather(count, p_.d, q.data, q.stride, rows, q_.data(), q_ld_);
  std::memset(acc_.data(), 0, size_t(kTileRows * acc_ld_ * kit_.sum));
  const double half = p_.scale * p_.scale / 2;
  for (int64_t i = 0; i < count; ++i) {
    const void* row = q.from(rows[i], kit_.size).data;
    const double q2 = half * kit_.tile.dot_stored(p_.d, row, row);
    if (kit_.sum == 8) {
      max_.as<double>()[i] = -kInfinity, sum_.as<double>()[i] = 0, q2_.as<double>()[i] = q2;
    } else {
      max_.as<float>()[i] = float(-kInfinity), sum_.as<float>()[i] = 0;
      q2_.as<float>()[i] = float(q2);
    }
  }
}

void ForwardTile::load(const Running& r) {
  for (int64_t i = 0; i < count_; ++i) {
    const int64_t row = rows_[i] - r.first_row;
    std::memcpy(acc_.data() + i * acc_ld_ * kit_.sum, r.acc + row * r.ld * kit_.sum,
                size_t(p_.dv * kit_.sum));
    std::memcpy(max_.data() + i * kit_.sum, r.max + row * kit_.sum, size_t(kit_.sum));
    std::memcpy(sum_.data() + i * kit_.sum, r.sum + row * kit_.sum, size_t(kit_.sum));
  }
}

void ForwardTile::save(const Running& r) {
  for (int64_t i = 0; i < count_; ++i) {
    const int64_t row = rows_[i] - r.first_row;
    std::memcpy(r.acc + row * r.ld * kit_.sum, acc_.data() + i * acc_ld_ * kit_.sum,
                size_t(p_.dv * kit_.sum));
    std::memcpy(r.max + row * kit_.sum, max_.data() + i * kit_.sum, size_t(kit_.sum));
    std::memcpy(r.sum + row * kit_.sum, sum_.data() + i * kit_.sum, size_t(kit_.sum));
  }
}

void ForwardTile::load_rows(const NodeKeys& keys, Rows from, int64_t first, int64_t columns,
                            int64_t width, int64_t ld) {
  const bool sorted = keys.order != nullptr;
  const Rows base = sorted ? from : from.from(first, kit_.size);
  kit_.tile.gather(columns, width, base.data, base.stride, sorted ? keys.order + first : nullptr,
                   keys_.data(), ld);
}

void ForwardTile::scores(int64_t columns, const void* panels) {
  kit_.gemm.gemm(count_, columns, p_.d, q_.data(), q_ld_, panels, s_.data(), s_ld_, false);
}

void ForwardTile::softmax(ScoreBlock block, const int32_t* begin, const int32_t* end,
                          int64_t columns) {
  block.rows = count_, block.columns = columns;
  block.padded = round_up(columns, kit_.gemm.depth);
  block.s = s_.data(), block.ld = s_ld_, block.p = probabilities_, block.p_ld = p_ld_;
  block.scale = p_.scale, block.begin = begin, block.end = end;
  kit_.tile.softmax(block, {max_.data(), sum_.data(), acc_.data(), acc_ld_, p_.dv});
}

void ForwardTile::add_values(int64_t columns, const void* panels) {
  kit_.gemm.gemm(count_, p_.dv, columns, probabilities_, p_ld_, panels, acc_.data(), acc_ld_, true);
}

void ForwardTile::windows(const NodeKeys& keys, int64_t low, int64_t high, const int32_t* begin,
                          const int32_t* end) {
  const auto advance = [&](int64_t at) { return at / kTileColumns * kTileColumns + kTileColumns; };
  for (int64_t at = low / kLanes * kLanes; at < high; at = advance(at)) {
    const int64_t columns = std::min(high, advance(at)) - at;
    load_rows(keys, keys.k, at, columns, p_.d, q_ld_);
    kit_.gemm.pack_operand(p_.d, columns, {keys_.data(), 1, q_ld_}, k_panels_.data());
    scores(columns, k_panels_.data());
    for (int64_t i = 0; i < count_; ++i) {
      begin_[size_t(i)] = int32_t(begin[i] - at), end_[size_t(i)] = int32_t(end[i] - at);
    }
    softmax({}, begin_.data(), end_.data(), columns);
    load_rows(keys, keys.v, at, columns, p_.dv, v_ld_);
    if (kit_.tile.finite(columns * v_ld_, keys_.data())) {
      kit_.gemm.pack_operand(columns, p_.dv, {keys_.data(), v_ld_, 1}, v_panels_.data());
      add_values(columns, v_panels_.data());
    } else {
      kit_.tile.sparse_product(count_, columns, p_.dv, probabilities_, p_ld_, keys_.data(), v_ld_,
                               acc_.data(), acc_ld_);
    }
  }
}

void ForwardTile::list(const List& list, const int32_t* begin, const int32_t* end) {
  for (int64_t b = 0; b < list.blocks(); ++b) {
    ScoreBlock block = list.score_block(kit_, b);
    block.q2 = q2_.data(), block.window = begin, block.window_end = end;
    std::fill(begin_.begin(), begin_.end(), 0);
    std::fill(end_.begin(), end_.end(), int32_t(block.columns));
    scores(block.columns, list.k_block(kit_, p_.d, b));
    softmax(block, begin_.data(), end_.data(), block.columns);
    add_values(block.columns, list.v_block(kit_, p_.dv, b));
  }
}

void ForwardTile::finish(std::byte* out, int64_t stride, std::byte* lse) const {
  for (int64_t i = 0; i < count_; ++i) {
    finish_row(p_, acc_.data() + i * acc_ld_ * kit_.sum, max_.data() + i * kit_.sum,
               sum_.data() + i * kit_.sum, out + rows_[i] * stride * kit_.size,
               lse + rows_[i] * kit_.sum);
  }
}

}  // namespace thrifty::attention
