// moe_route against the CPU's: the same experts, weights, statistics and gradients, over scores,
// groups, masks, dtypes, NaN and rows that have fewer experts than are asked for.
#include <cmath>
#include <cstring>
#include <random>

#include "hostcuda/harness.h"
#include "moe/route_cuda.h"

namespace thrifty::moe::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

struct Case {
  Dtype dtype = Dtype::kFloat32;
  int64_t tokens = 7, experts = 13, top_k = 3;
  const char* score = "softmax";
  bool renorm = false, bias = false, mask = false, stats = false;
  double scale = 1;
  int64_t n_group = 1, topk_group = 1, group_topn = 1;
  double threshold = 0;
  bool odd_values = false;  // NaN, infinities and ties
};

std::vector<unsigned char> stored(Dtype dtype, const std::vector<float>& values) {
  std::vector<unsigned char> bytes(values.size() * size_t(dtype_size(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    const double wide = values[i];
    const bf16 brain = __float2bfloat16(values[i]);
    const fp16 half = __float2half(values[i]);
    const void* from = dtype == Dtype::kFloat64    ? static_cast<const void*>(&wide)
                       : dtype == Dtype::kBFloat16 ? static_cast<const void*>(&brain)
                       : dtype == Dtype::kFloat16  ? static_cast<const void*>(&half)
                                                   : &values[i];
    std::memcpy(&bytes[i * size_t(dtype_size(dtype))], from, size_t(dtype_size(dtype)));
  }
  return bytes;
}

Array flat(void* data, Dtype dtype, std::vector<int64_t> shape) {
  Array a{.data = data, .dtype = dtype, .ndim = int(shape.size())};
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0; stride *= shape[d]) {
    a.shape[d] = shape[d], a.strides[d] = stride;
  }
  return a;
}

std::vector<float> logit_values(const Case& c) {
  std::vector<float> values = normal_values<float>(size_t(c.tokens * c.experts), 3);
  if (!c.odd_values) return values;
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t row = i / size_t(c.experts);
    if (row == 0) values[i] = NAN;
    if (row == 1 && i % 3 == 0) values[i] = NAN;
    if (row == 2) values[i] = float(i % 2);
    if (row == 3) values[i] = -INFINITY;
  }
  return values;
}

std::vector<uint8_t> mask_values(const Case& c) {
  std::vector<uint8_t> mask(size_t(c.experts), 1);
  for (size_t e = 0; e < mask.size(); ++e) mask[e] = e % 4 != 1 && (e < 2 || e > 5);
  return mask;
}

// NaN is equal to NaN: written as a number that no result has.
std::vector<double> plain(const Bytes& bytes, bool wide) {
  std::vector<double> values;
  for (size_t i = 0; i < bytes.size(); i += wide ? 8 : 4) {
    float narrow = 0;
    double value = 0;
    std::memcpy(wide ? static_cast<void*>(&value) : &narrow, &bytes[i], wide ? 8 : 4);
    value = wide ? value : narrow;
    values.push_back(value == value ? std::fmax(-1e30, value) : -77777);
  }
  return values;
}

struct Result {
  Result(const Case& c, int64_t size)
      : weights(size_t(c.tokens * c.top_k * size)),
        ids(size_t(c.tokens * c.top_k)),
        sum(size_t(c.stats ? c.experts * size : 0)),
        count(size_t(c.stats ? c.experts : 0)),
        dlogits(size_t(c.tokens * c.experts * dtype_size(c.dtype))) {}
  Buffer<unsigned char> weights;
  Buffer<int32_t> ids;
  Buffer<unsigned char> sum;
  Buffer<int32_t> count;
  Buffer<unsigned char> dlogits;
};

std::vector<double> decoded(Dtype dtype, const Bytes& bytes) {
  if (dtype == Dtype::kFloat32 || dtype == Dtype::kFloat64) {
    return plain(bytes, dtype == Dtype::kFloat64);
  }
  std::vector<double> values;
  for (size_t i = 0; i < bytes.size(); i += 2) {
    bf16 brain;
    fp16 half;
    std::memcpy(static_cast<void*>(&brain), &bytes[i], 2);
    std::memcpy(static_cast<void*>(&half), &bytes[i], 2);
    const double value = dtype == Dtype::kBFloat16 ? as_double(brain) : as_double(half);
    values.push_back(value == value ? value : -77777);
  }
  return values;
}

Bytes check(const Case& c) {
  const bool wide = c.dtype == Dtype::kFloat64;
  const Dtype sums = wide ? Dtype::kFloat64 : Dtype::kFloat32;
  Buffer<unsigned char> logits(stored(c.dtype, logit_values(c)));
  Buffer<unsigned char> bias(stored(sums, normal_values<float>(size_t(c.experts), 4)));
  Buffer<unsigned char> grad(stored(sums, normal_values<float>(size_t(c.tokens * c.top_k), 5)));
  Buffer<uint8_t> mask(mask_values(c));
  const Route route =
      check_moe_route({.logits = flat(logits.data(), c.dtype, {c.tokens, c.experts}),
                       .bias = c.bias ? flat(bias.data(), sums, {c.experts}) : Array{},
                       .mask = c.mask ? flat(mask.data(), Dtype::kUInt8, {c.experts}) : Array{},
                       .top_k = c.top_k,
                       .score = c.score,
                       .renorm = c.renorm,
                       .scale = c.scale,
                       .n_group = c.n_group,
                       .topk_group = c.topk_group,
                       .group_topn = c.group_topn,
                       .threshold = c.threshold});
  Result got(c, wide ? 8 : 4), want(c, wide ? 8 : 4);
  Buffer<unsigned char> scratch(size_t(moe_route_scratch(route, c.stats)));
  const auto optional = [&](auto& buffer) { return c.stats ? buffer.data() : nullptr; };
  expect_ok(cuda::moe_route_fwd(route, got.weights.data(), got.ids.data(), optional(got.sum),
                                optional(got.count), scratch.data(), nullptr)
                .error);
  moe::moe_route_fwd(route, want.weights.data(), want.ids.data(), optional(want.sum),
                     optional(want.count), serial);
  expect(got.ids.values() == want.ids.values(), "ids");
  expect(got.count.values() == want.count.values(), "count");
  const double near = wide ? 1e-13 : 2e-6;
  expect_close(plain(got.weights.bytes(), wide), plain(want.weights.bytes(), wide), near, near,
               "weights");
  expect_close(plain(got.sum.bytes(), wide), plain(want.sum.bytes(), wide), near, near, "sum");
  expect_ok(
      cuda::moe_route_bwd(route, grad.data(), got.ids.data(), got.dlogits.data(), nullptr).error);
  moe::moe_route_bwd(route, grad.data(), want.ids.data(), want.dlogits.data(), serial);
  const double rounding = is_half(c.dtype) ? 8e-3 : near;
  expect_close(decoded(c.dtype, got.dlogits.bytes()), decoded(c.dtype, want.dlogits.bytes()),
               4 * rounding, 4 * rounding, "dlogits");
  Bytes all = got.weights.bytes();
  for (const Bytes& more : {got.ids.bytes(), got.sum.bytes(), got.dlogits.bytes()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

constexpr const char* kScores[] = {"softmax", "sigmoid", "topk_softmax"};

}  // namespace

TEST(moe_route_scores) {
  for (const char* score : kScores) {
    for (const Dtype dtype :
         {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64}) {
      check({.dtype = dtype, .score = score});
      check({.dtype = dtype, .score = score, .renorm = true, .bias = true, .scale = 2.5});
    }
    check({.score = score, .mask = true, .stats = true});
    check({.top_k = 13, .score = score, .mask = true});  // fewer than are asked for
    check({.experts = 1, .top_k = 1, .score = score});
    check({.experts = 77, .top_k = 40, .score = score, .renorm = true});
    check({.score = score, .odd_values = true});
    check({.tokens = 0, .score = score, .stats = true});
  }
}

TEST(moe_route_groups) {
  for (const bool mask : {false, true}) {
    for (const int64_t topn : {1, 2, 5}) {
      check({.experts = 40,
             .top_k = 4,
             .score = "sigmoid",
             .renorm = true,
             .bias = true,
             .mask = mask,
             .n_group = 8,
             .topk_group = 3,
             .group_topn = topn,
             .odd_values = mask});
    }
  }
}

TEST(moe_route_statistics) {
  check({.tokens = 150, .experts = 70, .stats = true, .threshold = 0.3});
  check({.dtype = Dtype::kBFloat16, .tokens = 65, .top_k = 1, .stats = true});
}

TEST(moe_route_schedules) {
  for_each_schedule([] {
    return check({.tokens = 5,
                  .experts = 40,
                  .score = "sigmoid",
                  .renorm = true,
                  .bias = true,
                  .stats = true,
                  .n_group = 8,
                  .topk_group = 3,
                  .group_topn = 2});
  });
  for_few_schedules([] { return check({.mask = true, .stats = true}); });
}

}  // namespace thrifty::moe::cuda::testing
