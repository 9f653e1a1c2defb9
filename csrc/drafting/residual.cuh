// What is left of p at a node while its children are tested, by one warp: Residual of
// drafting/residual.h. p and q on the support of q lie in scratch memory; for the rest, where q is
// 0, one number stands.
#pragma once

#include "drafting/target_row.cuh"

namespace thrifty::drafting::cuda {

template <class T>
class SparseResidual {
 public:
  // p, q: scratch for n numbers each.
  THRIFTY_DEVICE SparseResidual(double* p, double* q) : p_(p), q_(q) {}

  // ids[n], q[n]: the support, -1 pads.
  THRIFTY_DEVICE void start(const TargetRow<T>& row, const int32_t* ids, const float* q,
                            int64_t n) {
    ids_ = ids, n_ = n;
    double inside = 0, total = 0;
    for (int64_t i = lane_index(); i < n; i += kWarpSize) {
      p_[i] = ids[i] >= 0 ? row.prob(ids[i]) : 0;
      q_[i] = ids[i] >= 0 ? double(q[i]) : 0;
      inside += p_[i], total += q_[i];
    }
    inside = warp_sum(inside), total = warp_sum(total);
    // q sums to 1 up to the rounding of its numbers; p is what it is.
    for (int64_t i = lane_index(); i < n; i += kWarpSize) q_[i] /= total;
    outside_ = fmax(0.0, 1 - inside);
    syncwarp();
  }

  // Whether `token`, drawn from q, is accepted with coin u in [0, 1): u q < p. If not, p becomes
  // norm(max(p - q, 0)) and q loses the token. A token that q cannot give is refused, and changes
  // nothing.
  THRIFTY_DEVICE bool accept(int32_t token, double u) {
    const int64_t x = find(token);
    const double share = x >= 0 ? q_[x] : 0, chance = x >= 0 ? p_[x] : 0;
    syncwarp();  // all lanes have read them, before anyone writes what comes next
    if (!(share > 0)) return false;
    if (u * share < chance) return true;
    double left = 0;
    for (int64_t i = lane_index(); i < n_; i += kWarpSize) {
      p_[i] = fmax(p_[i] - q_[i], 0.0);
      if (i == x) q_[i] = 0;
      left += q_[i];
    }
    left = warp_sum(left);
    for (int64_t i = lane_index(); i < n_; i += kWarpSize) q_[i] = left > 0 ? q_[i] / left : 0;
    normalise();
    return false;
  }

  // A token of what is left, if it lies in the support; else -1, and `last` receives the last that
  // p gives mass, or -1, for the case that nothing lies outside.
  THRIFTY_DEVICE int32_t choose(int64_t seed, int64_t position, int32_t& last) {
    normalise();
    const double u = uniforms(seed, position, Stream::kCoins, kResidualCoin).u;
    Search search(u);
    for (int64_t batch = 0; batch * kWarpSize < n_ && !search.found(); ++batch) {
      const int64_t i = batch * kWarpSize + lane_index();
      search.offer(i < n_ && ids_[i] >= 0 ? p_[i] : 0, int(batch));
    }
    const bool any = search.batch() >= 0;
    last = any ? ids_[int64_t(search.batch()) * kWarpSize + search.lane()] : -1;
    return search.found() ? last : -1;
  }

  // For block verification: p <- max(share p - q, 0), not normalised; returns its sum.
  THRIFTY_DEVICE double subtract(double share) {
    double sum = 0;
    for (int64_t i = lane_index(); i < n_; i += kWarpSize) {
      p_[i] = fmax(share * p_[i] - q_[i], 0.0);
      sum += p_[i];
    }
    outside_ *= share;
    syncwarp();
    return outside_ + warp_sum(sum);
  }

 private:
  // Nothing left is a matter of rounding (p <= q everywhere): then the rest stands for all.
  THRIFTY_DEVICE void normalise() {
    double sum = 0;
    for (int64_t i = lane_index(); i < n_; i += kWarpSize) sum += p_[i];
    sum = outside_ + warp_sum(sum);
    if (!(sum > 0)) outside_ = sum = 1;
    for (int64_t i = lane_index(); i < n_; i += kWarpSize) p_[i] /= sum;
    outside_ /= sum;
    syncwarp();
  }

  THRIFTY_DEVICE int64_t find(int32_t token) const {
    int64_t found = INT64_MAX;
    for (int64_t i = lane_index(); i < n_; i += kWarpSize) {
      if (ids_[i] == token && ids_[i] >= 0 && i < found) found = i;
    }
    found = -warp_max(-found);
    return found == INT64_MAX ? -1 : found;
  }

  double *const p_, *const q_;
  const int32_t* ids_ = nullptr;
  int64_t n_ = 0;
  double outside_ = 0;  // of p
};

// A support is a distribution over distinct ids of the vocabulary: its sum, or NaN. One thread.
THRIFTY_DEVICE double support_sum(const int32_t* ids, const float* q, int64_t n, int64_t vocab) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (ids[i] < 0) continue;
    bool good = ids[i] < vocab && q[i] >= 0;
    for (int64_t j = 0; j < i; ++j) good = good && ids[j] != ids[i];
    if (!good) return NAN;
    sum += double(q[i]);
  }
  return sum;
}

}  // namespace thrifty::drafting::cuda
