#include "drafting/target_row.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "sampling/filter.h"

namespace thrifty::drafting {
namespace {

template <class T>
T setting_or(const T* values, int64_t i, T fallback) {
  return values != nullptr ? values[i] : fallback;
}

}  // namespace

bool TargetRow::open(const LogitsView& logits, int64_t b, int64_t row,
                     const TargetSettings& settings, int64_t setting, ParallelFor parallel) {
  const float temperature = setting_or(settings.temperature, setting, 1.0f);
  greedy_ = temperature == 0;
  row_ = {.logits = logits.at(b, row),
          .dtype = logits.dtype,
          .vocab = logits.vocab,
          .inv_temperature = greedy_ ? 1.0f : 1 / temperature};
  has_maxima_ = false;
  mass_.measure(row_, parallel);
  if (!mass_.valid() || !(mass_.kept().sum > 0)) return false;
  if (greedy_) {
    top_k(row_, maxima().data(), 1, ranked_);
    best_ = ranked_[0].id, log_mass_ = double(ranked_[0].logit);
    return true;
  }
  const sampling::Filters filters{.top_k = setting_or<int64_t>(settings.top_k, setting, 0),
                                  .top_p = setting_or(settings.top_p, setting, 0.0f) < 1
                                               ? setting_or(settings.top_p, setting, 0.0f)
                                               : 0.0f,
                                  .min_p = setting_or(settings.min_p, setting, 0.0f)};
  if (filters.any()) {
    const float theta = sampling::threshold(filters, mass_, maxima().data());
    if (theta > kNoLogit) mass_.raise(theta, maxima().data());
    row_.at_least = mass_.row().at_least;
  }
  log_mass_ = mass_.kept().log();
  return true;
}

const std::vector<float>& TargetRow::maxima() {
  if (!has_maxima_) {
    maxima_.resize(size_t(row_.blocks()));
    block_maxima(row_, maxima_.data());
    has_maxima_ = true;
  }
  return maxima_;
}

float TargetRow::logit(int64_t id) const {
  const LogitsBlock one{static_cast<const char*>(row_.logits) + id * dtype_size(row_.dtype), 1,
                        nullptr, row_.at_least, 1};
  return logits_kernels(row_.dtype).max(one);  // -inf where it was cut
}

double TargetRow::prob(int32_t id) const {
  if (id < 0 || id >= row_.vocab) return 0;
  if (greedy_) return id == best_ ? 1 : 0;
  const float value = logit(id);
  return value == kNoLogit ? 0
                           : std::exp(double(value) * log_scale(row_.inv_temperature) - log_mass_);
}

int32_t TargetRow::draw(int64_t seed, int64_t position) const {
  if (greedy_) return best_;
  const Uniforms random = uniforms(seed, position, Stream::kDraws, 0);
  return int32_t(mass_.draw(random.u, random.v));
}

int32_t TargetRow::draw_outside(const int32_t* ids, int64_t n, int64_t seed, int64_t position) {
  if (greedy_) return std::find(ids, ids + n, best_) == ids + n ? best_ : -1;
  for (int64_t i = 0; i < n; ++i) mass_.remove(ids[i]);
  return draw(seed, position);
}

void TargetRow::block_probs(int64_t block, float* probs) const {
  if (greedy_) {
    std::fill(probs, probs + kLogitsBlock, 0.0f);
    if (best_ / kLogitsBlock == block) probs[best_ % kLogitsBlock] = 1;
    return;
  }
  uint32_t words[kBlockWords];
  const LogitsKernels& kernels = logits_kernels(row_.dtype);
  const LogitsBlock part = block_of(row_, block, words);
  const float top = kernels.max(part);
  if (top == kNoLogit) {
    std::fill(probs, probs + kLogitsBlock, 0.0f);
    return;
  }
  kernels.weights(part, top, probs);
  const double log_unit = exponent_of(top, log2_scale(row_.inv_temperature)) * std::numbers::ln2;
  const auto unit = float(std::exp(log_unit - log_mass_));
  for (int64_t i = 0; i < kLogitsBlock; ++i) probs[i] *= unit;
}

void TargetRow::top(int64_t k, int32_t* ids, float* probs) {
  std::fill(ids, ids + k, -1);
  std::fill(probs, probs + k, 0.0f);
  if (k == 0) return;
  if (greedy_) {
    ids[0] = best_, probs[0] = 1;
    return;
  }
  top_k(row_, maxima().data(), k, ranked_);
  for (size_t i = 0; i < ranked_.size(); ++i) {
    const double log_weight = double(ranked_[i].logit) * log_scale(row_.inv_temperature);
    ids[i] = ranked_[i].id, probs[i] = float(std::exp(log_weight - log_mass_));
  }
}

}  // namespace thrifty::drafting
