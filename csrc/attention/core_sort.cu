// The stable counting sort of bucket_sort_cuda.h for rows of many lengths, with all counts in
// shared memory: a warp walks over a segment with counts of its own, 32 numbers at a time, so that
// equal numbers keep their order and nothing depends on timing.
//
// Sorting is for tiles that share windows; results do not depend on it. Nodes of more than
// kMaxBuckets windows are sorted by their number without its lowest bits.
#include "attention/core_sort.h"

#include <algorithm>

#include "attention/core_window.cuh"
#include "core/bucket_sort.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"

namespace thrifty::attention::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kWarps = 16, kThreads = kWarps * kWarpSize;
constexpr int kMaxBuckets = 4095, kCounts = 16384;  // 64 KiB

struct Sort {
  CoreArgs args;
  int first, parts;
};

THRIFTY_DEVICE int window_count(const CoreArgs& args, const CorePart& part) {
  if (!args.paper) return bucket_limit(part, args.num_buckets);
  return (part.keys - 1) / args.window + 1;
}

struct Ids {
  const int32_t* q_window;
  int windows, shift;

  THRIFTY_DEVICE int bucket(int i) const {
    const int window = load_readonly(q_window + i);
    return (window >= 0 && window < windows ? window : windows - 1) >> shift;
  }
};

__global__ void __launch_bounds__(kThreads) core_sort_kernel(const __grid_constant__ Sort sort) {
  THRIFTY_DYNAMIC_SHARED(int32_t, shared);
  THRIFTY_SHARED(int32_t, sums, [kWarps]);
  const CorePart& part = sort.args.parts[sort.first + int(blockIdx.x) % sort.parts];
  const int64_t head = int(blockIdx.x) / sort.parts;
  const int64_t at = head * sort.args.q_total + part.q_at;
  Ids ids{sort.args.q_window + at, window_count(sort.args, part), 0};
  while ((ids.windows - 1) >> ids.shift > kMaxBuckets - 1) ++ids.shift;
  int32_t* const rows = sort.args.q_rows + at;
  const int buckets = ((ids.windows - 1) >> ids.shift) + 1;
  const int walkers = kCounts / buckets > kWarps ? kWarps : kCounts / buckets - 1;
  const int segment = ((part.queries - 1) / (walkers * kWarpSize) + 1) * kWarpSize;
  const int warp = warp_index();
  const int first = between(between(warp, 0, walkers) * segment, 0, part.queries);
  const int last = between(first + segment, first, part.queries);
  int32_t* const counts = shared + between(warp, 0, walkers - 1) * buckets;
  const auto walk = [&](const auto& body) {
    for (int base = first; base < last && warp < walkers; base += kWarpSize) {
      const int i = base + lane_index();
      const int bucket = i < last ? ids.bucket(i) : -1;
      const uint32_t peers = warp_match(bucket);
      body(i, bucket, peers, lane_index() + 1 == find_first_set(peers));
      syncwarp();
    }
  };
  for (int i = int(threadIdx.x); i < walkers * buckets; i += kThreads) shared[i] = 0;
  syncthreads();
  walk([&](int, int bucket, uint32_t peers, bool leads) {
    if (bucket >= 0 && leads) counts[bucket] += popcount(peers);
  });
  syncthreads();
  // Counts become the places where each walker's part of a bucket begins.
  int carry = 0;
  for (int base = 0; base < buckets; base += kThreads) {
    const int b = base + int(threadIdx.x);
    int sum = 0, total;
    for (int w = 0; b < buckets && w < walkers; ++w) sum += shared[w * buckets + b];
    int place = carry + scan_block<kWarps>(sum, sums, total);
    for (int w = 0; b < buckets && w < walkers; ++w) {
      const int mine = shared[w * buckets + b];
      shared[w * buckets + b] = place;
      place += mine;
    }
    carry += total;
    syncthreads();
  }
  walk([&](int i, int bucket, uint32_t peers, bool leads) {
    const int begin = bucket >= 0 ? counts[bucket] : 0;
    syncwarp();
    if (bucket < 0) return;
    if (leads) counts[bucket] = begin + popcount(peers);
    rows[begin + popcount(peers & lanes_below())] = i;
  });
}

}  // namespace

LaunchStatus sort_queries(const CoreArgs& args, const Table& table, cudaStream_t stream) {
  const auto is_node = [](const CorePart& part) { return part.node >= 0; };
  const auto first = std::find_if(table.parts.begin(), table.parts.end(), is_node);
  const int parts = int(table.parts.end() - first);  // leaves come first
  const Sort sort{args, int(first - table.parts.begin()), parts};
  dim3 grid;
  if (!one_dimensional_grid(int64_t(parts) * args.batch * args.q_heads, grid)) {
    return {cudaErrorInvalidValue, "core_sort"};
  }
  return {launch(core_sort_kernel, grid, dim3(kThreads), kCounts * sizeof(int32_t), stream, sort),
          "core_sort"};
}

}  // namespace thrifty::attention::cuda
