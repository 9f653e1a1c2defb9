// The counting sort of core/bucket_sort_cuda.h over all nodes at once, whose lengths differ.
#pragma once

#include "attention/plan_nodes.h"
#include "core/cuda/status.h"

namespace thrifty::attention::cuda {

using thrifty::cuda::LaunchStatus;

struct NodeSort {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  Part part = kKeys;
  int64_t heads = 0;
  // [heads, ids_stride], a node's from its span's `at` on; by_row: from its first row on.
  const int32_t* ids = nullptr;
  int64_t ids_stride = 0;
  bool by_row = false;
  int64_t buckets = 1;         // ids from `buckets` on are of none, and stand last
  int walkers = 0;             // of a head
  int32_t* counts = nullptr;   // scratch [heads, walkers, buckets + 1]
  int32_t* offsets = nullptr;  // [heads, node_count, buckets + 1]
  // [heads, stride]: positions in the node by bucket; with a window instead the block of each
  // position's rank, of ceil(keys / window) blocks (plan.h). May then be `ids`.
  int32_t* order = nullptr;
  int64_t stride = 0, window = 0;
};
LaunchStatus node_sort(const NodeSort& sort, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
