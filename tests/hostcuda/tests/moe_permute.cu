// The counting sort and moe_permute against the CPU's, number for number: id types, numbers of no
// bucket, long rows, buckets that do not fit into shared memory, maps, capacities.
#include <random>

#include "core/bucket_sort.h"
#include "core/bucket_sort_cuda.h"
#include "hostcuda/harness.h"
#include "moe/permute_cuda.h"

namespace thrifty::moe::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

template <class Id>
std::vector<Id> random_ids(size_t n, int64_t below, int64_t from, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int64_t> draw(from, below - 1);
  std::vector<Id> ids(n);
  for (Id& id : ids) id = Id(draw(random));
  return ids;
}

template <class Id>
constexpr Dtype kDtype = sizeof(Id) == 8   ? Dtype::kInt64
                         : sizeof(Id) == 4 ? Dtype::kInt32
                                           : Dtype::kUInt8;

template <class T>
Array flat(Buffer<T>& values, Dtype dtype, std::vector<int64_t> shape) {
  Array a{.data = values.data(), .dtype = dtype, .ndim = int(shape.size())};
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0; stride *= shape[d]) {
    a.shape[d] = shape[d], a.strides[d] = stride;
  }
  return a;
}

struct Sorted {
  Buffer<int32_t> order, offsets, inverse;
  Sorted(int64_t rows, int64_t n, int64_t buckets)
      : order(size_t(rows * n)), offsets(size_t(rows * (buckets + 1))), inverse(size_t(rows * n)) {}
  Bytes bytes() const {
    Bytes all = order.bytes();
    for (const Bytes& more : {offsets.bytes(), inverse.bytes()}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
};

template <class Id>
Bytes check_sort(int64_t rows, int64_t n, int64_t buckets, int64_t below, int64_t from = 0) {
  Buffer<Id> ids(random_ids<Id>(size_t(rows * n), below, from, unsigned(n + buckets)));
  Sorted got(rows, n, buckets), want(rows, n, buckets);
  const BucketSort sort{.ids = ids.data(),
                        .dtype = kDtype<Id>,
                        .rows = rows,
                        .n = n,
                        .buckets = buckets,
                        .order = got.order.data(),
                        .offsets = got.offsets.data(),
                        .inverse = got.inverse.data()};
  Buffer<unsigned char> scratch(size_t(bucket_sort_scratch(sort)));
  expect_ok(thrifty::cuda::bucket_sort(sort, scratch.data(), nullptr).error);
  thrifty::bucket_sort(flat(ids, kDtype<Id>, {rows, n}), rows, n, buckets, want.order.data(),
                       want.offsets.data(), want.inverse.data(), serial);
  expect(got.bytes() == want.bytes(), "rows " + std::to_string(rows) + ", n " + std::to_string(n) +
                                          ", buckets " + std::to_string(buckets));
  return got.bytes();
}

struct PermuteCase {
  int64_t tokens = 13, top_k = 3, experts = 5, before = 0;  // before > 0: with a map
  int64_t capacity = 0;
  bool priority = false;
};

Bytes check_permute(const PermuteCase& c) {
  const int64_t slots = c.tokens * c.top_k;
  Buffer<int64_t> ids(random_ids<int64_t>(size_t(slots), c.experts + 2, -2, 7));
  Buffer<int32_t> map(random_ids<int32_t>(size_t(c.before), c.experts + 1, -1, 8));
  std::vector<float> draws = normal_values<float>(size_t(slots), 9);
  for (size_t i = 0; i < draws.size(); i += 4) draws[i] = i % 8 == 0 ? NAN : draws[0];  // and ties
  Buffer<float> priority(draws);
  const Permute permute = check_moe_permute(
      flat(ids, Dtype::kInt64, {c.tokens, c.top_k}), c.experts,
      c.before > 0 ? flat(map, Dtype::kInt32, {c.before}) : Array{}, c.capacity,
      c.priority ? flat(priority, Dtype::kFloat32, {c.tokens, c.top_k}) : Array{});
  Sorted got(1, slots, c.experts), want(1, slots, c.experts);
  Buffer<unsigned char> scratch(size_t(moe_permute_scratch(permute)));
  expect_ok(cuda::moe_permute(permute, got.order.data(), got.offsets.data(), got.inverse.data(),
                              scratch.data(), nullptr)
                .error);
  moe::moe_permute(permute, want.order.data(), want.offsets.data(), want.inverse.data(), serial);
  expect(got.bytes() == want.bytes(),
         "capacity " + std::to_string(c.capacity) + ", map of " + std::to_string(c.before));
  return got.bytes();
}

}  // namespace

TEST(bucket_sort_one_block) {
  for_each_schedule([] { return check_sort<int32_t>(2, 301, 5, 7, -2); });
}

TEST(bucket_sort_sizes) {
  for (const int64_t n : {0, 1, 31, 33, 256, 257}) {
    for (const int64_t buckets : {1, 3, 300}) check_sort<int64_t>(2, n, buckets, buckets + 1, -1);
  }
  check_sort<uint8_t>(3, 100, 200, 256);
}

// More numbers than one block takes, and more buckets than its shared memory.
TEST(bucket_sort_long_rows) {
  check_sort<int32_t>(2, kOneBlock + 77, 9, 10);
  for_few_schedules([] { return check_sort<int32_t>(2, 1030, 1200, 1300, -9); });
}

TEST(moe_permute_maps_and_capacities) {
  for (const int64_t before : {0, 9}) {
    for (const int64_t capacity : {0, 1, 4, 100}) {
      check_permute({.before = before, .capacity = capacity});
      check_permute({.before = before, .capacity = capacity, .priority = true});
    }
  }
  check_permute({.tokens = 0});
  for_few_schedules([] { return check_permute({.capacity = 3, .priority = true}); });
}

}  // namespace thrifty::moe::cuda::testing
