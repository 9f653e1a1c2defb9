// token_topk, gather_rows and scatter_add_rows on CUDA against the CPU's: ties, NaN, every dtype,
// indices of no row, rows that share a place, sizes beside the vector's.
#include "core/parallel.h"
#include "device_array.h"
#include "moe/token_rows_cuda.h"

namespace thrifty::moe::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

Bytes check_topk(Dtype dtype, int64_t batch, int64_t length, int64_t k, const Values& values = {}) {
  const DeviceArray scores = values.empty() ? DeviceArray(dtype, {batch, length}, 1)
                                            : DeviceArray(dtype, {batch, length}, values);
  const TokenTopk topk = check_token_topk(scores.array(), k);
  const size_t count = size_t(batch * k);
  Buffer<unsigned char> weights(count * size_t(dtype_size(dtype)));
  Buffer<int64_t> index(count);
  expect_ok(cuda::token_topk(topk, weights.data(), index.data(), nullptr).error);
  Values want(count);
  std::vector<int64_t> where(count);
  moe::token_topk(check_token_topk(scores.wide(), k), want.data(), where.data(), serial);
  expect(index.values() == where, "token_topk: index");
  const Values got = decode(dtype, weights.bytes());
  for (size_t i = 0; i < count; ++i) {
    const bool same = got[i] == want[i] || (got[i] != got[i] && want[i] != want[i]);
    expect(same, "token_topk: weight " + std::to_string(i));
  }
  return weights.bytes();
}

struct Case {
  Dtype dtype = Dtype::kBFloat16;
  int64_t batch = 2, length = 10, chosen = 7, width = 24;
  Dtype index = Dtype::kInt64;
  bool weighted = true, wide_weights = false;
  int skew = 0;
};

Bytes check_rows(const Case& c) {
  Values places;  // some twice, some outside
  for (int64_t i = 0; i < c.batch * c.chosen; ++i) {
    places.push_back(double(i * i * 7 % (c.length + 3) - 1));
  }
  if (c.index == Dtype::kInt64 && places.size() > 2) places[2] = double(int64_t(1) << 40);
  const DeviceArray index(c.index, {c.batch, c.chosen}, places);
  const DeviceArray x(c.dtype, {c.batch, c.length, c.width}, 1, false, c.skew);
  const DeviceArray src(c.dtype, {c.batch, c.chosen, c.width}, 2, false, c.skew);
  DeviceArray weights;
  if (c.weighted) {
    weights = DeviceArray(c.wide_weights ? Dtype::kFloat32 : c.dtype, {c.batch, c.chosen}, 3);
  }
  const auto get = [](const DeviceArray& a, bool wide) { return wide ? a.wide() : a.array(); };
  const auto size = size_t(dtype_size(c.dtype));

  const size_t gathered = size_t(c.batch * c.chosen * c.width);
  Buffer<unsigned char> rows(gathered * size);
  const auto gather = [&](bool wide) {
    return check_gather_rows(get(x, wide), index.array(), get(weights, wide));
  };
  expect_ok(cuda::gather_rows(gather(false), rows.data(), nullptr).error);
  Values want(gathered);
  moe::gather_rows(gather(true), want.data(), serial);
  expect_near(decode(c.dtype, rows.bytes()), want, rounding(c.dtype), "gather_rows");

  const size_t scattered = size_t(c.batch * c.length * c.width);
  Buffer<unsigned char> out(scattered * size);
  const auto scatter = [&](bool wide) {
    return check_scatter_add_rows(get(x, wide), index.array(), get(src, wide), get(weights, wide));
  };
  Buffer<unsigned char> scratch(size_t(scatter_add_rows_scratch(scatter(false))));
  expect_ok(cuda::scatter_add_rows(scatter(false), out.data(), scratch.data(), nullptr).error);
  want.resize(scattered);
  moe::scatter_add_rows(scatter(true), want.data(), serial);
  expect_near(decode(c.dtype, out.bytes()), want, rounding(c.dtype), "scatter_add_rows");
  Bytes all = rows.bytes();
  const Bytes more = out.bytes();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

constexpr Dtype kDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32, Dtype::kFloat64};

}  // namespace

TEST(token_topk) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t k : {0, 1, 9, 299, 300}) check_topk(dtype, 3, 300, k);
    const double nan = std::nan(""), inf = INFINITY;
    for (int64_t k = 1; k <= 9; ++k) {
      check_topk(dtype, 1, 9, k, {1, nan, 2, 1, -inf, -0.0, 0.0, inf, 1});
    }
    check_topk(dtype, 1, 700, 400, Values(700, -3));  // ties over several steps
  }
  check_topk(Dtype::kFloat32, 0, 7, 2);
  check_topk(Dtype::kFloat32, 2, 1, 1);
  for_each_schedule([] { return check_topk(Dtype::kBFloat16, 2, 520, 77); });
}

TEST(token_rows) {
  for (const Dtype dtype : kDtypes) {
    for (const bool weighted : {true, false}) {
      check_rows({.dtype = dtype, .weighted = weighted});
      check_rows({.dtype = dtype, .width = 7, .index = Dtype::kInt32, .weighted = weighted});
    }
    check_rows({.dtype = dtype, .wide_weights = is_half(dtype), .skew = 1});
  }
  check_rows({.batch = 1, .length = 3, .chosen = 50, .width = 1});
  check_rows({.chosen = 0});
  check_rows({.length = 0});
  check_rows({.batch = 0});
  check_rows({.batch = 5, .length = 40, .chosen = 30, .width = 40});
  for_each_schedule([] { return check_rows({.chosen = 20}); });
}

}  // namespace thrifty::moe::cuda::testing
