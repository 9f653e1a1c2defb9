// One exact draw per row from the allowed and filtered tokens:
//
//   token ~ p(. | A and F)    logp = log p(token | A and F)    log_z = log p(A and F)
//
// p = softmax(l / T) over all tokens, A what the mask allows, F what the filters leave of it. So
// log_z is the exact log-weight of the draw for the target p 1_{A and F}: what AWRS estimates by
// checks (arXiv 2504.05410), a mask gives for nothing. At T = 0 the largest logit is taken, the
// smallest id among equal ones, with logp = log_z = 0, which is no weight.
#pragma once

#include "sampling/filter.h"

namespace thrifty::sampling {

struct MaskedSampleArgs {
  BatchArgs batch;
  FilterArgs filters;
  Array threshold;       // float32, one or one per row: a bound on logits beside the filters
  Array seeds, offsets;  // [B] int64
  int64_t fallback_token = -1;
};

struct MaskedSample {
  Batch batch;
  FilterBatch filters;
  PerRow<float> threshold{nullptr, 0, kNoLogit};
  const int64_t* seeds = nullptr;
  const int64_t* offsets = nullptr;
  int64_t fallback_token = -1;
};

struct MaskedSampleOut {
  int64_t* token;   // [B]
  float* logp;      // [B]
  float* log_z;     // [B]
  int32_t* status;  // [B]
};

MaskedSample check_masked_sample(const MaskedSampleArgs& args);
void masked_sample(const MaskedSample& op, const MaskedSampleOut& out, ParallelFor parallel);

struct FilterThresholdOut {
  float* threshold;  // [B]
  float* log_mass;   // [B]: log p of the tokens that pass
};

// The rows' theta and log p(A and F), without a draw.
struct FilterThreshold {
  Batch batch;
  FilterBatch filters;
};

FilterThreshold check_filter_threshold(const BatchArgs& batch, const FilterArgs& filters);
void filter_threshold(const FilterThreshold& op, const FilterThresholdOut& out,
                      ParallelFor parallel);

}  // namespace thrifty::sampling
