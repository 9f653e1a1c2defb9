// bucket_sort.h on CUDA: the same order, offsets and inverse.
//
// A warp walks over a segment of consecutive numbers, 32 at a time, with a row of counts of its
// own: equal numbers of a step find each other by a match, so their order is that of the lanes and
// nothing depends on timing. Up to kOneBlock numbers a row are sorted by one block with its counts
// in shared memory; longer rows by three kernels (count, scan, place) with counts in scratch.
// Nothing synchronises, allocates or reads the device from the host.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/cuda/status.h"
#include "core/dtype.h"

namespace thrifty::cuda {

struct BucketSort {
  const void* ids = nullptr;  // [rows, n] int32, int64 or uint8
  Dtype dtype = Dtype::kInt32;
  int64_t rows = 1, n = 0, buckets = 1;
  const void* map = nullptr;  // int32 or int64 [map_size]: the bucket of a number; null: itself
  Dtype map_dtype = Dtype::kInt32;
  int64_t map_size = 0;
  int32_t* order = nullptr;    // [rows, n]
  int32_t* offsets = nullptr;  // [rows, buckets + 1]
  int32_t* inverse = nullptr;  // [rows, n], or null
};

constexpr int64_t kOneBlock = 8192;

int64_t bucket_sort_scratch(const BucketSort& sort);  // bytes
LaunchStatus bucket_sort(const BucketSort& sort, void* scratch, cudaStream_t stream);

}  // namespace thrifty::cuda
