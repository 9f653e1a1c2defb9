// One step of adaptive weighted rejection sampling under a byte automaton, all of it native: draw
// without replacement (core/logits.h), walk the token's bytes (byte_dfa.h), weigh (awrs_walk.h).
//
// After kPatience refusals in a row the whole vocabulary is checked instead, and token and weight
// are exact. That keeps the mean: given any refused set, either way E[Zhat 1(x = a)] = p(a). A
// budget bounds the checks, so with one there is no such fallback.
#pragma once

#include "sampling/awrs_walk.h"
#include "sampling/batch.h"
#include "sampling/byte_dfa.h"

namespace thrifty::sampling {

struct AwrsSampleDfaArgs {
  BatchArgs batch;  // without a mask
  ByteDfaArgs dfa;
  Array state;           // [B] int32
  Array seeds, offsets;  // [B] int64
  std::string_view estimator = "desraj";
  int64_t extra = 4, budget = 0;
  int64_t fallback_token = -1;
};

struct AwrsSampleDfa {
  // 256 draws take about as long as the checks of 131k tokens.
  static constexpr int64_t kPatience = 256;

  Batch batch;
  ByteDfa dfa;
  const int32_t* state = nullptr;
  const int64_t *seeds = nullptr, *offsets = nullptr;
  AwrsRule rule;
  int64_t fallback_token = -1;
};

struct AwrsSampleDfaOut {
  int64_t* token;      // [B]
  float* logw;         // [B]
  int32_t* new_state;  // [B], ByteDfa::kDead where no token was found
  int32_t* n_checked;  // [B]
  int32_t* status;     // [B]
};

AwrsSampleDfa check_awrs_sample_dfa(const AwrsSampleDfaArgs& args);
void awrs_sample_dfa(const AwrsSampleDfa& op, const AwrsSampleDfaOut& out, ParallelFor parallel);

}  // namespace thrifty::sampling
