// The keys that leave their buckets, and the residual's draws (plan.h).
#pragma once

#include "attention/directions_cuda.h"

namespace thrifty::attention::cuda {

// ids of the `keep` keys with the greatest scores, the first of equals, become `mark`; NaN is the
// least. A node without probes marks its first keys.
struct KeepArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  int64_t heads = 0, keep = 0;
  const float* scores = nullptr;  // [heads, stride]
  int32_t* ids = nullptr;         // the same
  int64_t stride = 0;
  int32_t mark = 0;
};
LaunchStatus keep_keys(const KeepArgs& args, cudaStream_t stream);

struct ResidualArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  int64_t heads = 0, count = 0;
  PlanSeed seed;
  int32_t* samples = nullptr;  // [heads, node_count, count]
};
LaunchStatus draw_residual(const ResidualArgs& args, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
