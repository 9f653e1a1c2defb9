// See filter.h.
#include "sampling/filter.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "core/error.h"

namespace thrifty::sampling {
namespace {

constexpr float kEverything = kNoLogit;

// The row's kept tokens, best first, of which only a prefix is sorted: it grows on demand.
class Ranking {
 public:
  Ranking(const LogitsRow& row, const float* maxima) : row_(row), maxima_(maxima) {}

  // Whether there is a token of this rank; sorts at least so far.
  bool has(int64_t rank) {
    while (rank >= int64_t(best_.size()) && !complete_) {
      wanted_ = wanted_ == 0 ? kFirst : wanted_ * 8;
      top_k(row_, maxima_, std::min(wanted_, row_.vocab), best_);
      complete_ = int64_t(best_.size()) < wanted_;
    }
    return rank < int64_t(best_.size());
  }
  float logit(int64_t rank) const { return best_[size_t(rank)].logit; }

 private:
  static constexpr int64_t kFirst = 128;

  const LogitsRow& row_;
  const float* maxima_;
  int64_t wanted_ = 0;
  bool complete_ = false;
  std::vector<Ranked> best_;
};

float top_k_threshold(int64_t k, const LogitsRow& row, const float* maxima, Ranking& ranking) {
  constexpr int64_t kSorted = 1024;  // beyond it the order costs more than a second selection
  if (k >= row.vocab) return kEverything;
  if (k <= kSorted) return ranking.has(k - 1) ? ranking.logit(k - 1) : kEverything;
  std::vector<Ranked> best;
  top_k(row, maxima, k, best);
  return int64_t(best.size()) < k ? kEverything : best.back().logit;
}

float min_p_threshold(float min_p, float top, float inv_temperature) {
  return float(double(top) + std::log(double(min_p)) / double(inv_temperature));
}

// Tokens of at least `bound` share the mass.
float top_p_threshold(float p, float bound, const RowMass& mass, Ranking& ranking) {
  const double it = log_scale(mass.row().inv_temperature);
  LogMass whole = mass.kept();
  if (bound != kEverything) {
    whole.sum = 0;
    for (int64_t i = 0; ranking.has(i) && ranking.logit(i) >= bound; ++i) {
      whole.sum += std::exp(double(ranking.logit(i)) * it - whole.ref);
    }
  }
  double before = 0;
  float last = kEverything;
  for (int64_t i = 0; ranking.has(i); ++i) {
    const float logit = ranking.logit(i);
    if (logit < bound || (i > 0 && before >= double(p) * whole.sum)) return last;
    before += std::exp(double(logit) * it - whole.ref);
    last = logit;
  }
  return kEverything;
}

// `TopHLogitsWarper`: over the 100 largest, renormalised, while the sum of -p log p is at most
// alpha times the whole of it.
float top_h_threshold(float alpha, double it, Ranking& ranking) {
  constexpr int64_t kCandidates = 100;
  double weights[kCandidates], sum = 0, entropy = 0;
  int64_t n = 0;
  for (; n < kCandidates && ranking.has(n); ++n) {
    weights[n] = std::exp((double(ranking.logit(n)) - double(ranking.logit(0))) * it);
    sum += weights[n];
  }
  const auto term = [&](int64_t i) {
    const double p = weights[i] / sum;
    return p > 0 ? -p * std::log(p) : 0.0;
  };
  for (int64_t i = 0; i < n; ++i) entropy += term(i);
  double so_far = term(0);
  int64_t kept = 1;
  while (kept < n && (so_far += term(kept)) <= double(alpha) * entropy) ++kept;
  return ranking.logit(kept - 1);
}

// The paper's text: the largest prefix whose own entropy, h / g + log g with g = sum of p and
// h = -sum of p log p, is at most alpha times that of the whole row.
float top_h_renormalised(float alpha, const RowMass& mass, const float* maxima, Ranking& ranking) {
  const LogitsRow& row = mass.row();
  const LogMass whole = mass.kept();
  const LogitsKernels& kernels = logits_kernels(row.dtype);
  const double it = log_scale(row.inv_temperature), log_whole = whole.log();
  // H = log of the mass - mean of l / T. The sums are of y with l / T = (y + exponent) log 2.
  double mean = 0;
  uint32_t words[kBlockWords];
  for (int64_t b = 0; b < row.blocks(); ++b) {
    if (maxima[b] == kNoLogit) continue;
    float weighted = 0;
    const float sum = kernels.sum(block_of(row, b, words), maxima[b], &weighted);
    const double log_unit =
        exponent_of(maxima[b], log2_scale(row.inv_temperature)) * std::numbers::ln2;
    const double share = std::exp(log_unit - log_whole);
    mean += share * (double(weighted) * std::numbers::ln2 + double(sum) * log_unit);
  }
  const double limit = double(alpha) * (log_whole - mean);
  double g = 0, h = 0;
  int64_t kept = 0;
  for (; ranking.has(kept); ++kept) {
    const double log_p = double(ranking.logit(kept)) * it - log_whole, p = std::exp(log_p);
    g += p;
    h -= p > 0 ? p * log_p : 0.0;
    if (kept > 0 && h / g + std::log(g) > limit) break;
  }
  return ranking.logit(kept - 1);
}

}  // namespace

float threshold(const Filters& filters, const RowMass& mass, const float* maxima) {
  const LogitsRow& row = mass.row();
  const float top = *std::max_element(maxima, maxima + row.blocks());
  if (top == kNoLogit) return -kNoLogit;
  Ranking ranking(row, maxima);
  float theta = kEverything;
  const auto raise = [&](float bound) { theta = std::max(theta, bound); };
  if (filters.top_k > 0) raise(top_k_threshold(filters.top_k, row, maxima, ranking));
  if (filters.top_p > 0) raise(top_p_threshold(filters.top_p, theta, mass, ranking));
  if (filters.min_p > 0) raise(min_p_threshold(filters.min_p, top, row.inv_temperature));
  if (filters.top_n_sigma > 0) {
    const double sigma = moments(row).deviation();
    raise(float(double(top) - double(filters.top_n_sigma) * sigma));
  }
  if (filters.top_h > 0) {
    raise(filters.renormalised
              ? top_h_renormalised(filters.top_h, mass, maxima, ranking)
              : top_h_threshold(filters.top_h, log_scale(row.inv_temperature), ranking));
  }
  return std::min(theta, top);  // min_p = 1 may round above the largest
}

Filters FilterBatch::operator[](int64_t row) const {
  // A top_p of 0 keeps the first.
  const float p = top_p[row] == 1 ? 0 : std::max(top_p[row], std::numeric_limits<float>::min());
  return {top_k[row], p, min_p[row], top_n_sigma[row], top_h[row], renormalised};
}

FilterBatch check_filters(const std::string& op, const FilterArgs& args, int64_t rows,
                          bool on_device) {
  FilterBatch filters;
  filters.top_k = check_per_row<int64_t>(op, "top_k", args.top_k, Dtype::kInt64, rows, int64_t(0));
  const auto number = [&](const char* name, const Array& array, float most, float none = 0) {
    const auto values = check_per_row(op, name, array, Dtype::kFloat32, rows, none);
    for (int64_t b = 0; b < rows && !on_device; ++b) {
      const float value = values[b];
      THRIFTY_CHECK(value >= 0 && value <= most, op, ": ", name, ": expected numbers in [0, ", most,
                    "], got ", value);
    }
    return values;
  };
  filters.top_p = number("top_p", args.top_p, 1, 1);
  filters.min_p = number("min_p", args.min_p, 1);
  filters.top_n_sigma = number("top_n_sigma", args.top_n_sigma, std::numeric_limits<float>::max());
  filters.top_h = number("top_h", args.top_h, 1);
  for (int64_t b = 0; b < rows && !on_device; ++b) {
    THRIFTY_CHECK(filters.top_k[b] >= 0, op, ": top_k: expected numbers >= 0, got ",
                  filters.top_k[b]);
  }
  const std::string& variant = args.top_h_variant;
  THRIFTY_CHECK(variant == "hf" || variant == "renorm", op,
                ": top_h_variant: expected hf or renorm, got ", variant);
  filters.renormalised = variant == "renorm";
  return filters;
}

}  // namespace thrifty::sampling
