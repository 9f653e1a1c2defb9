// verify_chain on the CPU: rows are read one after the other, as far as tokens are accepted.
#include <algorithm>
#include <cmath>

#include "drafting/residual.h"

namespace thrifty::drafting {
namespace {

// max(share p - q, 0) for a q over the whole vocabulary, block by block.
class DenseResidual {
 public:
  void start(const TargetRow& row, const float* q) { row_ = &row, q_ = q; }

  // The sum; NaN when q is no distribution.
  double sum(double share) const {
    double total = 0, mass = 0;
    for (int64_t b = 0; b < row_->blocks(); ++b) {
      const int64_t n = load(b);
      for (int64_t i = 0; i < n; ++i) {
        total += excess(share, b, i), mass += double(q_[b * kLogitsBlock + i]);
      }
    }
    return std::abs(mass - 1) < 0.01 ? total : std::nan("");
  }

  // The first token whose running sum passes u sum; -1 when the sum is 0.
  int32_t draw(double share, double u) const {
    const double target = u * sum(share);
    double running = 0;
    int32_t last = -1;
    for (int64_t b = 0; b < row_->blocks(); ++b) {
      const int64_t n = load(b);
      for (int64_t i = 0; i < n; ++i) {
        const double part = excess(share, b, i);
        if (!(part > 0)) continue;
        running += part, last = int32_t(b * kLogitsBlock + i);
        if (running > target) return last;
      }
    }
    return last;
  }

 private:
  int64_t load(int64_t block) const {
    row_->block_probs(block, probs_);
    return std::min(kLogitsBlock, row_->vocab() - block * kLogitsBlock);
  }
  double excess(double share, int64_t block, int64_t i) const {
    return std::max(share * double(probs_[i]) - double(q_[block * kLogitsBlock + i]), 0.0);
  }

  const TargetRow* row_ = nullptr;
  const float* q_ = nullptr;
  mutable float probs_[kLogitsBlock];
};

class Chain {
 public:
  Chain(const VerifyChain& call, const VerifyOut& out) : call_(call), out_(out) {}

  void walk(int64_t b, ParallelFor parallel) {
    b_ = b, width_ = call_.length + 1, parallel_ = parallel;
    length_ = call_.lens != nullptr ? call_.lens[b] : call_.length;
    tokens_ = call_.tokens + b * call_.length;
    seed_ = call_.settings.seed != nullptr ? call_.settings.seed[b] : 0;
    offset_ = call_.settings.offset != nullptr ? call_.settings.offset[b] : 0;
    clear(0);
    status_ = usable() ? kGood : kBadDraft;
    int64_t accepted = 0;
    int32_t last = -1;
    if (status_ == kGood) {
      last = call_.block && call_.q != nullptr ? block(accepted) : token_wise(accepted);
    }
    out_.status[b] = status_;
    if (status_ != kGood) return clear(0);
    clear(accepted + 1);
    for (int64_t i = 0; i <= accepted; ++i) {
      out_.tokens[b * width_ + i] = i < accepted ? tokens_[i] : last;
      out_.path[b * width_ + i] = int32_t(i);
    }
    out_.lengths[b] = int32_t(accepted + 1);
  }

 private:
  // Results behind the first `from` rows.
  void clear(int64_t from) {
    if (from == 0) out_.lengths[b_] = 0;
    const int64_t at = b_ * width_ + from, rows = width_ - from;
    std::fill_n(out_.tokens + at, rows, -1);
    std::fill_n(out_.path + at, rows, -1);
    std::fill_n(out_.topk_ids + at * call_.k, rows * call_.k, -1);
    std::fill_n(out_.topk_probs + at * call_.k, rows * call_.k, 0.0f);
  }

  bool usable() const {
    if (length_ < 0 || length_ > call_.length) return false;
    for (int64_t i = 0; i < length_; ++i) {
      if (tokens_[i] < 0 || tokens_[i] >= call_.logits.vocab) return false;
      if (call_.q_ids != nullptr && !usable_support(i)) return false;
      if (call_.q != nullptr && call_.q_ids == nullptr && !(dense_q(i)[tokens_[i]] >= 0)) {
        return false;
      }
    }
    return true;
  }

  bool usable_support(int64_t i) const {
    const int64_t at = (b_ * call_.length + i) * call_.support;
    const int32_t* ids = call_.q_ids + at;
    double sum = 0;
    for (int64_t j = 0; j < call_.support; ++j) {
      if (ids[j] < 0) continue;
      if (ids[j] >= call_.logits.vocab || !(call_.q[at + j] >= 0)) return false;
      if (std::find(ids, ids + j, ids[j]) != ids + j) return false;
      sum += double(call_.q[at + j]);
    }
    return sum > 0.99 && sum < 1.01;
  }

  const float* dense_q(int64_t i) const {
    return call_.q + (b_ * call_.length + i) * call_.logits.vocab;
  }

  bool open(int64_t i) {
    const bool good = row_.open(call_.logits, b_, i, call_.settings, b_, parallel_);
    const int64_t at = (b_ * width_ + i) * call_.k;
    if (good) row_.top(call_.k, out_.topk_ids + at, out_.topk_probs + at);
    if (!good) status_ = kBadLogits;
    return good;
  }

  void start_residual(int64_t i) {
    if (call_.q_ids == nullptr) return dense_.start(row_, dense_q(i));
    const int64_t at = (b_ * call_.length + i) * call_.support;
    sparse_.start(row_, call_.q_ids + at, call_.q + at, call_.support);
  }

  // Each token by itself; returns the one behind the accepted ones.
  int32_t token_wise(int64_t& accepted) {
    for (;; ++accepted) {
      const int64_t i = accepted;
      if (!open(i)) return -1;
      if (i == length_) return row_.draw(seed_, offset_ + i);
      if (call_.q == nullptr) {
        const int32_t token = row_.draw(seed_, offset_ + i);
        if (token != tokens_[i]) return token;
        continue;
      }
      start_residual(i);
      const double coin = uniforms(seed_, offset_ + i, Stream::kCoins, 0).u;
      if (call_.q_ids != nullptr) {
        if (!sparse_.accept(tokens_[i], coin)) return sparse_.draw(row_, seed_, offset_ + i);
        continue;
      }
      const double share = double(dense_q(i)[tokens_[i]]);
      if (!(share > 0)) return row_.draw(seed_, offset_ + i);  // q cannot have given it
      if (!(coin * share < row_.prob(tokens_[i]))) return draw_dense(1, offset_ + i);
    }
  }

  int32_t draw_dense(double share, int64_t position) {
    if (std::isnan(dense_.sum(share))) status_ = kBadDraft;
    const double u = uniforms(seed_, position, Stream::kCoins, kResidualCoin).u;
    const int32_t token = dense_.draw(share, u);
    return token >= 0 ? token : row_.draw(seed_, position);  // p <= q up to rounding
  }

  // q of the i-th drafted token.
  double drafted_q(int64_t i) const {
    if (call_.q_ids == nullptr) return double(dense_q(i)[tokens_[i]]);
    const int64_t at = (b_ * call_.length + i) * call_.support;
    for (int64_t j = 0; j < call_.support; ++j) {
      if (call_.q_ids[at + j] == tokens_[i]) return double(call_.q[at + j]);
    }
    return 0;
  }

  // p_0 = 1, p_i = min(p_{i-1} p(x_i) / q(x_i), 1); the last i with u_i < h_i is taken, h_n = p_n,
  // else h_i = r_i / (r_i + 1 - p_i), r_i = sum of max(p_i p - q, 0) at the row behind x_i. Coins
  // are all those of the first position: of later ones the next call may be the owner.
  int32_t block(int64_t& accepted) {
    double joint = 1, joint_accepted = 1;
    if (!open(0)) return -1;
    for (int64_t i = 0; i < length_; ++i) {
      const double q = drafted_q(i);
      joint = q > 0 ? std::min(joint * row_.prob(tokens_[i]) / q, 1.0) : 0;
      if (!(joint > 0)) break;
      if (!open(i + 1)) return -1;
      double chance = joint;
      if (i + 1 < length_) {
        start_residual(i + 1);
        const double left = call_.q_ids != nullptr ? sparse_.subtract(joint) : dense_.sum(joint);
        if (std::isnan(left)) {
          status_ = kBadDraft;
          return -1;
        }
        chance = left > 0 ? left / (left + 1 - joint) : 0;
      }
      const double coin = uniforms(seed_, offset_, Stream::kCoins, uint32_t(i)).u;
      if (coin < chance) accepted = i + 1, joint_accepted = joint;
    }
    if (!open(accepted)) return -1;
    const int64_t position = offset_ + accepted;
    if (accepted == length_) return row_.draw(seed_, position);
    start_residual(accepted);
    if (call_.q_ids == nullptr) return draw_dense(joint_accepted, position);
    sparse_.subtract(joint_accepted);
    return sparse_.draw(row_, seed_, position);
  }

  const VerifyChain& call_;
  const VerifyOut& out_;
  TargetRow row_;
  Residual sparse_;
  DenseResidual dense_;
  ParallelFor parallel_ = serial;
  int64_t b_ = 0, width_ = 0, length_ = 0, seed_ = 0, offset_ = 0;
  const int32_t* tokens_ = nullptr;
  int32_t status_ = kGood;
};

}  // namespace

void verify_chain(const VerifyChain& call, const VerifyOut& out, ParallelFor parallel) {
  constexpr int64_t kFew = 4;  // sequences: then all threads take one row's blocks
  if (call.logits.batch < kFew) {
    Chain chain(call, out);
    for (int64_t b = 0; b < call.logits.batch; ++b) chain.walk(b, parallel);
    return;
  }
  for_ranges(parallel, call.logits.batch, [&](int64_t begin, int64_t end) {
    Chain chain(call, out);
    for (int64_t b = begin; b < end; ++b) chain.walk(b, serial);
  });
}

}  // namespace thrifty::drafting
