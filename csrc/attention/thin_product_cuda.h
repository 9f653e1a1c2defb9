// Products of rows with up to 16 vectors: sides of hyperplanes (bucket.h), or the scores of keys.
#pragma once

#include "attention/head_rows.h"
#include "attention/plan_nodes.h"
#include "core/cuda/status.h"

namespace thrifty::attention::cuda {

using thrifty::cuda::LaunchStatus;

struct ThinArgs {
  HeadRows rows;
  int64_t head = 0, heads = 0;      // row heads [head, head + heads)
  const PlanNode* nodes = nullptr;  // null: rows [0, n) of each head
  int node_count = 1;
  int64_t n = 0;
  int tiles = 0;               // blocks of a head
  const void* mean = nullptr;  // [heads, node_count, d], subtracted from the rows; or null
  Dtype mean_dtype = Dtype::kFloat32;
  const float* planes = nullptr;  // signs: [d, bits]; scores: [heads, node_count, d]
  int bits = 1;
  int32_t* ids = nullptr;   // signs: [heads, stride]
  float* scores = nullptr;  // [heads, stride], a node's from its keys' `at` on
  int64_t stride = 0;
};

// ids: the rank in Gray order of the code whose bit r is (x - mean) . plane_r > 0.
LaunchStatus plane_signs(const ThinArgs& args, cudaStream_t stream);
// scores = (x - mean) . plane, of a node's keys.
LaunchStatus key_scores(const ThinArgs& args, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
