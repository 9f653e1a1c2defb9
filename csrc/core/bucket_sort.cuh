// The parts of the counting sort that are one warp's, and a scan of a block (bucket_sort_cuda.h).
#pragma once

#include "core/bucket_sort_cuda.h"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/math.cuh"
#include "core/element.cuh"

namespace thrifty::cuda {

// The bucket of number i of all rows; `buckets` for those of none.
THRIFTY_DEVICE int bucket_of(const BucketSort& sort, int64_t i) {
  int64_t id = load_integer(sort.ids, sort.dtype, i);
  if (sort.map != nullptr) {
    id = id >= 0 && id < sort.map_size ? load_integer(sort.map, sort.map_dtype, id) : -1;
  }
  return int(id >= 0 && id < sort.buckets ? id : sort.buckets);
}

THRIFTY_DEVICE uint32_t lanes_below() { return (1u << lane_index()) - 1; }

// A warp's step over numbers [at, at + 32) of a row: who shares the lane's bucket.
struct Peers {
  int bucket = -1;  // none: beyond the last
  uint32_t lanes;

  THRIFTY_DEVICE Peers(const BucketSort& sort, int64_t row, int64_t at, int64_t last) {
    const int64_t i = at + lane_index();
    if (i < last) bucket = bucket_of(sort, row * sort.n + i);
    lanes = warp_match(bucket);
  }
  THRIFTY_DEVICE bool leads() const {
    return bucket >= 0 && lane_index() + 1 == find_first_set(lanes);
  }
};

// counts[b] = how many of the numbers [first, last) of a row are in bucket b.
THRIFTY_DEVICE void count_segment(const BucketSort& sort, int64_t row, int64_t first, int64_t last,
                                  int32_t* counts) {
  for (int64_t b = lane_index(); b <= sort.buckets; b += kWarpSize) counts[b] = 0;
  syncwarp();
  for (int64_t at = first; at < last; at += kWarpSize) {
    const Peers peers(sort, row, at, last);
    if (peers.leads()) counts[peers.bucket] += popcount(peers.lanes);
    syncwarp();
  }
}

// Calls store(place, i) for the same numbers i; next[b]: where the segment's part of bucket b
// begins.
template <class Store>
THRIFTY_DEVICE void place_segment(const BucketSort& sort, int64_t row, int64_t first, int64_t last,
                                  int32_t* next, const Store& store) {
  for (int64_t at = first; at < last; at += kWarpSize) {
    const Peers peers(sort, row, at, last);
    const int begin = peers.bucket >= 0 ? next[peers.bucket] : 0;
    syncwarp();
    if (peers.leads()) next[peers.bucket] = begin + popcount(peers.lanes);
    syncwarp();
    if (peers.bucket < 0) continue;  // to the loop's end: only the last step has such lanes
    store(begin + popcount(peers.lanes & lanes_below()), int32_t(at + lane_index()));
  }
}

// Writes them to their places.
THRIFTY_DEVICE void place_segment(const BucketSort& sort, int64_t row, int64_t first, int64_t last,
                                  int32_t* next) {
  int32_t* const order = sort.order + row * sort.n;
  int32_t* const inverse = sort.inverse == nullptr ? nullptr : sort.inverse + row * sort.n;
  place_segment(sort, row, first, last, next, [&](int place, int32_t i) {
    order[place] = i;
    if (inverse != nullptr) inverse[i] = place;
  });
}

// The sum over the threads before the caller's, and `total` over all; kWarps warps. `shared`:
// kWarps ints, free before; all threads call, and a barrier follows before it is used again.
template <int kWarps>
THRIFTY_DEVICE int scan_block(int value, int32_t* shared, int& total) {
  int sum = value;
#pragma unroll
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int other = shfl_up(sum, delta);
    if (lane_index() >= delta) sum += other;
  }
  if (lane_index() == kWarpSize - 1) shared[warp_index()] = sum;
  syncthreads();
  int before = 0;
  total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp_index()) before += shared[w];
    total += shared[w];
  }
  return before + sum - value;
}

// Counts [walkers, buckets + 1] of a row's segments become the places where each begins to write.
template <int kWarps>
THRIFTY_DEVICE void scan_counts(int64_t buckets, int walkers, int32_t* counts, int32_t* offsets,
                                int32_t* shared) {
  int carry = 0;
  for (int64_t base = 0; base <= buckets; base += kWarps * kWarpSize) {
    const int64_t b = base + threadIdx.x;
    int sum = 0;
    for (int w = 0; b <= buckets && w < walkers; ++w) sum += counts[w * (buckets + 1) + b];
    int total;
    int place = carry + scan_block<kWarps>(sum, shared, total);
    if (b <= buckets) {
      offsets[b] = place;
      for (int w = 0; w < walkers; ++w) {
        int32_t& count = counts[w * (buckets + 1) + b];
        const int mine = count;
        count = place;
        place += mine;
      }
    }
    carry += total;
    syncthreads();
  }
}

}  // namespace thrifty::cuda
