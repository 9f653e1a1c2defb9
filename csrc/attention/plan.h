// hyper_plan: the choice of keys, made once for forward and backward. Integers alone.
//
// Per node (layout.h) and key head:
//
//   order     the node's keys, sorted by bucket, positions inside the node; kept keys stand last
//   offsets   bucket c owns sorted keys [offsets[c], offsets[c + 1]); offsets[buckets] is their
//             number without the kept ones
//   q_window  which window a query reads. Window w starts at sorted key window_start(...)
//   samples   "paper": sorted positions of the residual's keys
//
// "means", with m = keys(node) and C = bucket_count(m) buckets:
//   kept      the `keep` keys with the largest k . mean(q), the mean over all query heads of the key
//             head and over the probe queries (layout.h); ties: the earlier key. They leave the sort
//   centred   x = k - mean of the node's keys (not if `center` is off)
//   centroids x at C stratified random positions floor((j + u_j) m / C), normalised; two steps of
//             spherical k-means on the keys at floor(t m / T), T = min(m, 16 C); an empty bucket
//             keeps its centroid; numbered along a greedy chain of nearest neighbours from 0
//   buckets   argmax_c x . c, for queries q . c; ties: the lower number. A query's window is its
//             bucket's: W sorted keys around the middle of the bucket
//   list      every bucket's mean key and value with log-weight log(count) + |q|^2 scale^2 var / 2,
//             var = (mean |k|^2 - |mean k|^2) / D; for a row, a bucket that its window cuts stands
//             for its keys outside the window. And the kept keys
//
// "paper" (HyperAttention, arXiv 2310.05869, algorithms 1-4; the inverse Gray code mended):
//   buckets   bit r of the code is x . plane_r > 0, a bucket the rank of its code in Gray order;
//             queries are sorted like keys, and the query of rank r reads window
//             r ceil(m / W) / queries(node), which starts at sorted key W times that
//   list      `residual` uniform draws with replacement, log-weight log(m / residual), masked for a
//             row whose window holds them; every key once when residual >= m
//
// Draws are Philox words with key `seed` and counter (slot, stream, first key, m): neither batch nor
// head enters, so a head's plan does not depend on its neighbours.
#pragma once

#include <algorithm>

#include "attention/layout.h"
#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::attention {

enum class Mode { kMeans, kPaper };

constexpr int64_t kKeysPerBucket = 8;
inline int64_t bucket_count(int64_t keys, int64_t num_buckets) {
  return std::clamp<int64_t>(keys / kKeysPerBucket, 1, num_buckets);
}

struct PlanArgs {
  Mode mode = Mode::kMeans;
  bool causal = false, center = true;
  int64_t num_buckets = 256, window = 256, residual = 256, keep = 64, leaf = 1024;
  uint64_t seed = 0;
  const float* planes = nullptr;  // [bits, D], "paper"
  int64_t bits = 0;
};

// First sorted key of window w; it holds min(window, sorted) keys.
inline int64_t window_start(int64_t begin, int64_t count, int64_t window, int64_t sorted) {
  const int64_t middle = begin + (count >= window ? (count - window) / 2
                                                  : -((window - count + 1) / 2));
  return std::clamp<int64_t>(middle, 0, std::max<int64_t>(0, sorted - window));
}

}  // namespace thrifty::attention
