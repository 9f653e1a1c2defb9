// The counting sort's kernels and the choice between them (bucket_sort_cuda.h).
#include "core/bucket_sort.cuh"

#include <algorithm>

#include "core/cuda/launch.h"
#include "core/scratch.h"

namespace thrifty::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int64_t kSharedCounts = 32 * 1024;          // bytes that one block may count in
constexpr int64_t kSegment = 1024, kMaxWalkers = 64;  // numbers and warps of a long row

__global__ void __launch_bounds__(kThreads) bucket_sort_row_kernel(BucketSort sort) {
  THRIFTY_DYNAMIC_SHARED(int32_t, counts);
  THRIFTY_SHARED(int32_t, sums, [kWarps]);
  const int64_t row = blockIdx.x, segment = round_up(ceil_div(sort.n, kWarps), kWarpSize);
  const int64_t first = std::min(sort.n, warp_index() * segment);
  const int64_t last = std::min(sort.n, first + segment);
  int32_t* const mine = counts + warp_index() * (sort.buckets + 1);
  count_segment(sort, row, first, last, mine);
  syncthreads();
  scan_counts<kWarps>(sort.buckets, kWarps, counts, sort.offsets + row * (sort.buckets + 1), sums);
  place_segment(sort, row, first, last, mine);
}

// Of a long row: a walker is a warp, with counts [buckets + 1] of its own.
struct Walkers {
  int32_t* counts;
  int64_t segment;
  int per_row;
};

template <bool kPlaces>
__global__ void __launch_bounds__(kThreads) bucket_sort_walk_kernel(BucketSort sort, Walkers all) {
  const int64_t walker = int64_t(blockIdx.x) * kWarps + warp_index();
  if (walker >= sort.rows * all.per_row) return;  // a whole warp; there is no barrier below
  const int64_t row = walker / all.per_row, first = walker % all.per_row * all.segment;
  const int64_t last = std::min(sort.n, first + all.segment);
  int32_t* const counts = all.counts + walker * (sort.buckets + 1);
  if constexpr (kPlaces) {
    place_segment(sort, row, first, last, counts);
  } else {
    count_segment(sort, row, first, last, counts);
  }
}

__global__ void __launch_bounds__(kThreads) bucket_sort_scan_kernel(BucketSort sort, Walkers all) {
  THRIFTY_SHARED(int32_t, sums, [kWarps]);
  const int64_t row = blockIdx.x, width = sort.buckets + 1;
  scan_counts<kWarps>(sort.buckets, all.per_row, all.counts + row * all.per_row * width,
                      sort.offsets + row * width, sums);
}

int64_t shared_counts(const BucketSort& sort) { return kWarps * (sort.buckets + 1) * 4; }

bool in_one_block(const BucketSort& sort) {
  return sort.n <= kOneBlock && shared_counts(sort) <= kSharedCounts;
}

Walkers walkers(const BucketSort& sort, void* scratch) {
  const int64_t segment =
      std::max(kSegment, round_up(ceil_div(sort.n, kMaxWalkers), int64_t(kWarpSize)));
  return {static_cast<int32_t*>(scratch), segment,
          int(std::max<int64_t>(1, ceil_div(sort.n, segment)))};
}

}  // namespace

int64_t bucket_sort_scratch(const BucketSort& sort) {
  if (in_one_block(sort)) return 0;
  return sort.rows * walkers(sort, nullptr).per_row * (sort.buckets + 1) * 4;
}

LaunchStatus bucket_sort(const BucketSort& sort, void* scratch, cudaStream_t stream) {
  const char* const name = "bucket_sort";
  const Walkers all = walkers(sort, scratch);
  const int64_t blocks = ceil_div(sort.rows * all.per_row, kWarps);
  if (sort.rows > INT32_MAX || blocks > INT32_MAX) return {cudaErrorInvalidConfiguration, name};
  const dim3 rows(unsigned(sort.rows)), grid = dim3(unsigned(blocks));
  if (in_one_block(sort)) {
    return {
        launch(bucket_sort_row_kernel, rows, kThreads, size_t(shared_counts(sort)), stream, sort),
        name};
  }
  LaunchStatus status{launch(bucket_sort_walk_kernel<false>, grid, kThreads, 0, stream, sort, all),
                      name};
  if (status.ok()) {
    status.error = launch(bucket_sort_scan_kernel, rows, kThreads, 0, stream, sort, all);
  }
  if (status.ok()) {
    status.error = launch(bucket_sort_walk_kernel<true>, grid, kThreads, 0, stream, sort, all);
  }
  return status;
}

}  // namespace thrifty::cuda
