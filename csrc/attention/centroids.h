// What a node's keys are bucketed by in mode "means": centroids and the keys kept out (plan.h).
#pragma once

#include <vector>

#include "attention/plan.h"
#include "attention/problem.h"

namespace thrifty::attention {

// Mean of `rows` rows, summed in blocks of 256.
std::vector<float> mean_of(Dtype dtype, Rows x, int64_t rows, int64_t d);

// Unit vectors [buckets, d]. `number` of the node enters the draws.
std::vector<float> make_centroids(Dtype dtype, Rows k, int64_t keys, int64_t d, int64_t buckets,
                                  const float* mean, const PlanArgs& args, uint32_t number);

// The `keep` keys of the greatest (k - mean) . probe in rising order; without a probe the first.
std::vector<int32_t> kept_keys(Dtype dtype, Rows k, int64_t keys, int64_t d, const float* mean,
                               const float* probe, int64_t keep);

// Word 0 of draw `slot` of a stream.
enum class Stream : uint32_t { kPlanes, kCentroids, kResidual };
uint32_t plan_word(const PlanArgs& args, Stream stream, uint32_t slot, uint32_t number);

}  // namespace thrifty::attention
