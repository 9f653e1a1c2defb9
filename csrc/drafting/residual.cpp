#include "drafting/residual.h"

#include <algorithm>

namespace thrifty::drafting {

void Residual::start(const TargetRow& row, const int32_t* ids, const float* q, int64_t n) {
  ids_.clear(), p_.clear(), q_.clear();
  double inside = 0, total = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] < 0) continue;
    ids_.push_back(ids[i]);
    p_.push_back(row.prob(ids[i]));
    q_.push_back(double(q[i]));
    inside += p_.back(), total += q_.back();
  }
  // q sums to 1 up to the rounding of its numbers; p is what it is.
  for (double& share : q_) share /= total;
  outside_ = std::max(0.0, 1 - inside);
}

bool Residual::accept(int32_t token, double u) {
  const auto found = std::find(ids_.begin(), ids_.end(), token);
  if (found == ids_.end()) return false;
  const auto x = size_t(found - ids_.begin());
  if (!(q_[x] > 0)) return false;
  if (u * q_[x] < p_[x]) return true;
  for (size_t i = 0; i < ids_.size(); ++i) p_[i] = std::max(p_[i] - q_[i], 0.0);
  normalise();
  q_[x] = 0;
  double left = 0;
  for (const double share : q_) left += share;
  for (double& share : q_) share = left > 0 ? share / left : 0;
  return false;
}

double Residual::subtract(double share) {
  double sum = outside_ *= share;
  for (size_t i = 0; i < ids_.size(); ++i) sum += p_[i] = std::max(share * p_[i] - q_[i], 0.0);
  return sum;
}

// Nothing left is a matter of rounding (p <= q everywhere): then the rest stands for all.
void Residual::normalise() {
  double sum = outside_;
  for (const double share : p_) sum += share;
  if (!(sum > 0)) outside_ = sum = 1;
  for (double& share : p_) share /= sum;
  outside_ /= sum;
}

int32_t Residual::draw(TargetRow& row, int64_t seed, int64_t position) {
  normalise();
  const double u = uniforms(seed, position, Stream::kCoins, kResidualCoin).u;
  double running = 0;
  for (size_t i = 0; i < ids_.size(); ++i) {
    running += p_[i];
    if (u < running) return ids_[i];
  }
  const int32_t token = row.draw_outside(ids_.data(), int64_t(ids_.size()), seed, position);
  if (token >= 0) return token;
  // Nothing is outside, and u lies in the rounding above the sum: the last that p gives mass.
  for (size_t i = ids_.size(); i-- > 0;) {
    if (p_[i] > 0) return ids_[i];
  }
  return row.argmax();
}

}  // namespace thrifty::drafting
