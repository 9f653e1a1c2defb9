// hyper_plan: the choice of keys, made once for forward and backward. Integers alone.
//
// Per node (layout.h) and key head, the definition in thrifty.reference.attention_plan:
//
//   order     the node's keys, sorted by bucket, positions inside the node; kept keys stand last
//   offsets   "means": bucket c owns sorted keys [offsets[c], offsets[c + 1]); the offsets behind
//             the last bucket repeat the number of keys that are not kept
//   q_window  which window a query reads: its bucket ("means"), or block of its rank ("paper")
//   samples   "paper": sorted positions of the residual's keys
//
// "means": buckets are those of centroids (centroids.h); a query's window is `window` sorted keys
// around the middle of its bucket. "paper" (HyperAttention, arXiv 2310.05869, algorithms 1-4):
// buckets are sides of hyperplanes (bucket.h), block i of ceil(keys / window) has sorted keys
// from i window on and the queries of rank i / blocks to (i + 1) / blocks of them.
//
// Draws are Philox words with key `seed` and counter (stream 2^28 + slot, node, offset): neither
// batch nor head enters, so a head's plan does not depend on its neighbours.
#pragma once

#include <algorithm>

#include "attention/layout.h"
#include "attention/problem.h"

namespace thrifty::attention {

enum class Mode { kMeans, kPaper };

constexpr int64_t kKeysPerBucket = 8;
inline int64_t bucket_count(int64_t keys, int64_t num_buckets) {
  return std::clamp<int64_t>(keys / kKeysPerBucket, 1, num_buckets);
}

// First sorted key of the window of a bucket: [begin, begin + min(window, sorted)).
inline int64_t window_start(int64_t begin, int64_t count, int64_t window, int64_t sorted) {
  const int64_t spare = count - window;
  const int64_t half = spare >= 0 ? spare / 2 : -((1 - spare) / 2);  // rounded down
  return std::clamp<int64_t>(begin + half, 0, std::max<int64_t>(0, sorted - window));
}

struct PlanArgs {
  Mode mode = Mode::kMeans;
  bool causal = false, center = true;
  int64_t num_buckets = 0, window = 0, residual = 0, keep = 0, leaf = 0;
  uint64_t seed = 0, offset = 0;
  const float* planes = nullptr;  // [D, bits], "paper"
  int64_t bits = 0;
};

struct PlanOutputs {
  int32_t* order;     // [B, Hkv, k_total]
  int32_t* offsets;   // [B, Hkv, nodes, num_buckets + 1], "means"
  int32_t* q_window;  // [B, Hq, q_total]
  int32_t* samples;   // [B, Hkv, nodes, residual], "paper"
};

void hyper_plan(const Problem& problem, const Layout& layout, const PlanArgs& args,
                const PlanOutputs& outputs, ParallelFor parallel);

}  // namespace thrifty::attention
