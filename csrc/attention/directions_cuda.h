// Centroids of a plan on CUDA (centroids.h): means, draws, Lloyd's steps, the chain.
#pragma once

#include "attention/nearest_cuda.h"

namespace thrifty::attention::cuda {

// Philox's key and offset: values, or two numbers in device memory.
struct PlanSeed {
  const int64_t* device = nullptr;
  uint64_t seed = 0, offset = 0;
};

// Means of a part's rows; of several heads of a group their sum.
struct MeanArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  Part part = kKeys;  // or kProbes
  HeadRows rows;
  int64_t head = 0, heads = 0;  // row heads
  int group = 1;
  int chunks = 0;            // of a head
  float* partial = nullptr;  // [heads, chunks, d]
  float* mean = nullptr;     // [heads / group, node_count, d]
};
LaunchStatus node_means(const MeanArgs& args, cudaStream_t stream);

struct CentroidArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  HeadRows rows;                // keys
  int64_t head = 0, heads = 0;  // of them
  const float* mean = nullptr;  // [heads, node_count, d] or null
  DirectionArrays directions;
  PlanSeed seed;
  // The first centroids' candidates
  int64_t candidate_count = 0;  // of all nodes of a head
  float* candidates = nullptr;  // [heads, candidate_count, d], a node's as [d, its candidates]
  float* nearness = nullptr;    // [heads, candidate_count]
  int32_t* chosen = nullptr;    // [heads, directions.count]
  // Lloyd: the sample's members sorted by centroid
  const int32_t* order = nullptr;    // [heads, samples]
  const int32_t* offsets = nullptr;  // [heads, node_count, width]
  int64_t samples = 0, width = 0;
};
// Step 1 of thrifty.reference.attention_plan.make_centroids, and the second half of step 2.
LaunchStatus spread_centroids(const CentroidArgs& args, cudaStream_t stream);
LaunchStatus move_centroids(const CentroidArgs& args, cudaStream_t stream);

// Step 3: `to` gets the directions of `from` in the order of a chain.
struct ChainArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  int64_t heads = 0;
  Dtype dtype = Dtype::kFloat32;
  const float* gram = nullptr;  // [heads, stride]
  int64_t stride = 0;
  int32_t* order = nullptr;    // [heads, count]
  int32_t* visited = nullptr;  // the same
  DirectionArrays from, to;
};
LaunchStatus chain_centroids(const ChainArgs& args, cudaStream_t stream);

// The directions and means of an op's arguments.
struct GivenDirections {
  const void* directions = nullptr;  // [heads / group, to.count, d]
  const void* mean = nullptr;        // [heads, d] or null
  Dtype dtype = Dtype::kFloat32;
  int64_t heads = 0;
  int group = 1, d = 0;
  DirectionArrays to;  // bias: one for each of `heads`
};
LaunchStatus given_directions(const GivenDirections& args, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
