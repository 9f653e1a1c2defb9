// The first k tokens of a row in without-replacement order, with the masses that the estimators of
// awrs_walk.h need.
//
//   o_1 ~ p,  o_{j+1} ~ p without o_1 .. o_j      log_rest_j = log of all mass but o_1 .. o_{j-1}
//
// The same law as sorting log p + Gumbel noise (Plackett and Luce), drawn one after the other from
// block sums (core/logits.h): no noise per token, no sort. Draw j uses random number j, and masses
// are summed anew over what is left, so a list that is continued is the longer list.
#pragma once

#include "sampling/batch.h"

namespace thrifty::sampling {

struct SampleCandidatesArgs {
  BatchArgs batch;
  int64_t k = 0;
  Array drawn;           // [B, D] int32, contiguous: tokens drawn before; absent: none
  Array seeds, offsets;  // [B] int64
};

struct SampleCandidates {
  Batch batch;
  int64_t k = 0;  // at most V
  const int32_t* drawn = nullptr;
  int64_t drawn_count = 0;
  const int64_t *seeds = nullptr, *offsets = nullptr;
};

struct SampleCandidatesOut {
  int32_t* ids;     // [B, K], -1 after the last token with mass
  float* logp;      // [B, K], -inf there
  float* log_rest;  // [B, K], -inf there
  float* log_tail;  // [B], log of the mass of tokens that are in no list
  float* lse;       // [B], log sum exp(l / T)
  int32_t* status;  // [B]: kOk, kNothingAllowed, kInvalid
};

SampleCandidates check_sample_candidates(const SampleCandidatesArgs& args);
void sample_candidates(const SampleCandidates& op, const SampleCandidatesOut& out,
                       ParallelFor parallel);

// T = 0, which masked_sample understands, is refused: there is no order, and no weight.
void check_finite_temperature(const std::string& op, const Batch& batch, bool on_device);

// coins[B, K]: number j of each row's stream of coins, for the estimator "paper".
void awrs_coins(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                double* coins);

}  // namespace thrifty::sampling
