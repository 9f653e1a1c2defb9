// awrs_weights: a batch of walks (awrs_walk.h) over candidates whose verdicts are known, as a pure
// function.
#pragma once

#include <string_view>

#include "core/array.h"
#include "core/parallel.h"
#include "sampling/awrs_walk.h"

namespace thrifty::sampling {

// "desraj", "recursive" (Des Raj with one extra), "paper" or "none"; budget 0 means none.
AwrsRule check_awrs_rule(const char* op, std::string_view estimator, int64_t extra,
                         int64_t budget);

// Verdicts as they come from outside; any other number is a verdict not known yet.
constexpr uint8_t kRefused = 0, kAllowed = 1;

struct AwrsWeightsArgs {
  Array allowed, logp, log_rest, log_tail, coins = {};
  std::string_view estimator = "desraj";
  int64_t extra = 4, budget = 0;
};

struct AwrsWeights {
  int64_t rows = 0, k = 0;
  Dtype dtype = Dtype::kFloat32;        // of logp, log_rest, log_tail and the result
  const uint8_t* allowed = nullptr;     // [B, K]
  const void *logp = nullptr, *log_rest = nullptr;  // [B, K]
  const void* log_tail = nullptr;       // [B]
  const double* coins = nullptr;        // [B, K], read by "paper"
  AwrsRule rule;
};

// Arrays are contiguous; their contents are not looked at.
AwrsWeights check_awrs_weights(const AwrsWeightsArgs& args);

struct AwrsWeightsOut {
  int32_t* pos;        // [B]
  void* logw;          // [B], dtype
  uint8_t* need_more;  // [B]
  int32_t* n_checked;  // [B]
};

void awrs_weights(const AwrsWeights& problem, const AwrsWeightsOut& out, ParallelFor parallel);

}  // namespace thrifty::sampling
