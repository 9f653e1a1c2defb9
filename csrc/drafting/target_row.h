// One row of logits as the distribution p that verification works with.
#pragma once

#include <cstdint>
#include <vector>

#include "core/logits.h"
#include "drafting/verify.h"

namespace thrifty::drafting {

// Coins of one position, by index: child i of a tree's node takes coin i, what is drawn of the
// residual kResidualCoin.
constexpr uint32_t kResidualCoin = 1u << 20;

class TargetRow {
 public:
  // Measures row `row` of sequence b; `setting` is its index in the settings. False: NaN, +inf, or
  // no finite logit.
  bool open(const LogitsView& logits, int64_t b, int64_t row, const TargetSettings& settings,
            int64_t setting, ParallelFor parallel = serial);

  double log_mass() const { return log_mass_; }
  double prob(int32_t id) const;  // 0 outside the vocabulary

  // Tokens drawn from p, and from p without `ids` (-1 when that leaves nothing). The second one
  // leaves the row without them.
  int32_t draw(int64_t seed, int64_t position) const;
  int32_t draw_outside(const int32_t* ids, int64_t n, int64_t seed, int64_t position);
  int32_t argmax() const { return best_; }

  // p of the 1024 tokens of a block (kLogitsBlock), 0 beyond the vocabulary.
  void block_probs(int64_t block, float* probs) const;
  int64_t blocks() const { return row_.blocks(); }
  int64_t vocab() const { return row_.vocab; }

  // The k most probable, padded with -1 and 0.
  void top(int64_t k, int32_t* ids, float* probs);

 private:
  float logit(int64_t id) const;
  const std::vector<float>& maxima();

  LogitsRow row_;
  RowMass mass_;
  std::vector<float> maxima_;
  bool has_maxima_ = false, greedy_ = false;
  int32_t best_ = -1;
  double log_mass_ = 0;
  std::vector<Ranked> ranked_;
};

}  // namespace thrifty::drafting
