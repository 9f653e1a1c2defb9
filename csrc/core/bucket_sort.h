// Stable counting sort of small integers, the permutation behind attention buckets and experts.
//
//   order:    the positions 0 ... n - 1, by bucket and inside a bucket in rising order
//   offsets:  bucket b owns order[offsets[b], offsets[b + 1])
//   inverse:  order[inverse[i]] = i
//
// A number outside [0, buckets) belongs to no bucket; its positions follow behind
// offsets[buckets], also in rising order. Two passes over blocks of fixed length (count, place),
// with a scan over their counts in between, so the result does not depend on the threads.
#pragma once

#include <cstdint>

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty {

// ids: int32, int64 or uint8, contiguous, `rows` independent sorts of n < 2^31 numbers.
// order and inverse: [rows, n], offsets: [rows, buckets + 1]; inverse may be null.
void bucket_sort(const Array& ids, int64_t rows, int64_t n, int64_t buckets, int32_t* order,
                 int32_t* offsets, int32_t* inverse, ParallelFor parallel);

}  // namespace thrifty
