#include "core/bucket_sort.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/scratch.h"

namespace thrifty {
namespace {

constexpr int64_t kBlock = 1 << 14;  // numbers: 10 us of work, more than a thread costs

template <class Id>
struct Sort {
  const Id* ids;
  int64_t n, buckets, blocks;
  std::vector<int32_t> places;  // [rows, blocks, buckets + 1]: counts, then where a block writes

  int64_t bucket(Id id) const {
    const bool inside = int64_t(id) >= 0 && int64_t(id) < buckets;
    return inside ? int64_t(id) : buckets;
  }
  int32_t* block(int64_t row, int64_t b) {
    return places.data() + (row * blocks + b) * (buckets + 1);
  }

  void count(int64_t row, int64_t b) {
    int32_t* counts = block(row, b);
    const int64_t end = std::min(n, (b + 1) * kBlock);
    for (int64_t i = b * kBlock; i < end; ++i) ++counts[bucket(ids[row * n + i])];
  }

  // Counts become first places: by bucket, inside a bucket by block.
  void scan(int64_t row, int32_t* offsets) {
    int32_t total = 0;
    for (int64_t k = 0; k <= buckets; ++k) {
      offsets[k] = total;
      for (int64_t b = 0; b < blocks; ++b) {
        int32_t& place = block(row, b)[k];
        total += std::exchange(place, total);
      }
    }
  }

  void place(int64_t row, int64_t b, int32_t* order, int32_t* inverse) {
    int32_t* next = block(row, b);
    const int64_t end = std::min(n, (b + 1) * kBlock);
    for (int64_t i = b * kBlock; i < end; ++i) {
      const int32_t at = next[bucket(ids[row * n + i])]++;
      order[at] = int32_t(i);
      if (inverse != nullptr) inverse[i] = at;
    }
  }
};

template <class Id>
void sort(const Array& ids, int64_t rows, int64_t n, int64_t buckets, int32_t* order,
          int32_t* offsets, int32_t* inverse, ParallelFor parallel) {
  const int64_t blocks = std::max<int64_t>(1, ceil_div(n, kBlock));
  Sort<Id> sort{static_cast<const Id*>(ids.data), n, buckets, blocks,
                std::vector<int32_t>(size_t(rows * blocks * (buckets + 1)))};
  for_each(parallel, rows * blocks, [&](int64_t i) { sort.count(i / blocks, i % blocks); });
  for_each(parallel, rows, [&](int64_t row) { sort.scan(row, offsets + row * (buckets + 1)); });
  for_each(parallel, rows * blocks, [&](int64_t i) {
    const int64_t row = i / blocks;
    sort.place(row, i % blocks, order + row * n, inverse == nullptr ? nullptr : inverse + row * n);
  });
}

}  // namespace

void bucket_sort(const Array& ids, int64_t rows, int64_t n, int64_t buckets, int32_t* order,
                 int32_t* offsets, int32_t* inverse, ParallelFor parallel) {
  // Regions of one task each are not worth waking threads for.
  if (rows * ceil_div(n, kBlock) <= 1) parallel = serial;
  switch (ids.dtype) {
    case Dtype::kInt64:
      return sort<int64_t>(ids, rows, n, buckets, order, offsets, inverse, parallel);
    case Dtype::kUInt8:
      return sort<uint8_t>(ids, rows, n, buckets, order, offsets, inverse, parallel);
    default: return sort<int32_t>(ids, rows, n, buckets, order, offsets, inverse, parallel);
  }
}

}  // namespace thrifty
