// The layer of experts on CUDA against the CPU's in float64, forward and backward: activations,
// layouts, biases, maps, ids of no expert, tokens and experts that are few, many or none.
#include "core/parallel.h"
#include "device_array.h"
#include "hopper.h"
#include "moe/mlp_cuda.h"

namespace thrifty::moe::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

struct Case {
  Dtype dtype = Dtype::kBFloat16;
  int64_t tokens = 9, top_k = 3, experts = 5, hidden = 24, inner = 20;
  const char* activation = "swiglu";
  bool transposed = false, interleaved = false, bias = false, swapped = false, map = false;
  bool save_z = true;
  int skew = 0;
  int64_t only = -1;  // all tokens to one expert
};

Dtype weight_dtype(const Case& c) { return is_half(c.dtype) ? Dtype::kFloat32 : c.dtype; }

std::string text(const Case& c) {
  return std::string(dtype_name(c.dtype)) + " " + c.activation + " T " + std::to_string(c.tokens) +
         " H " + std::to_string(c.hidden) + " I " + std::to_string(c.inner) +
         (c.transposed ? " transposed" : "") + (c.interleaved ? " interleaved" : "") +
         (c.bias ? " bias" : "") + (c.swapped ? " swapped" : "") + (c.save_z ? "" : " no z");
}

bool gated(const Case& c) { return std::string(c.activation).find("glu") != std::string::npos; }

struct Layer {
  explicit Layer(const Case& c) : test(c), up(gated(c) ? 2 * c.inner : c.inner) {
    const int64_t e = c.experts, h = c.hidden, i = c.inner;
    Values ids, map(10);
    for (int64_t s = 0; s < c.tokens * c.top_k; ++s) {
      const int64_t known[] = {s * 11 % (c.experts + 2) - 1, -1, c.experts, INT32_MAX};
      ids.push_back(double(c.only >= 0 ? c.only : known[s % 11 == 5 ? 1 + s % 3 : 0]));
    }
    for (int64_t m = 0; m < 10; ++m) map[size_t(m)] = double(m % (e + 1)) - (m == 3 ? 9 : 0);
    x = DeviceArray(c.dtype, {c.tokens, h}, 1, false, c.skew, 4 * c.skew);
    w1 = DeviceArray(c.dtype, c.transposed ? shape(e, h, up) : shape(e, up, h), 2, c.swapped);
    w2 = DeviceArray(c.dtype, c.transposed ? shape(e, i, h) : shape(e, h, i), 3, c.swapped, c.skew);
    this->ids = DeviceArray(Dtype::kInt64, {c.tokens, c.top_k}, ids);
    weights = DeviceArray(weight_dtype(c), {c.tokens, c.top_k}, 4);
    if (c.bias) b1 = DeviceArray(c.dtype, {e, up}, 5), b2 = DeviceArray(c.dtype, {e, h}, 6);
    if (c.map) expert_map = DeviceArray(Dtype::kInt32, {10}, map);
    grad = DeviceArray(c.dtype, {c.tokens, h}, 7);
  }
  static std::vector<int64_t> shape(int64_t a, int64_t b, int64_t c) { return {a, b, c}; }

  Mlp mlp(bool wide) const {
    const auto get = [&](const DeviceArray& a) { return wide ? a.wide() : a.array(); };
    return check_moe_mlp({.x = get(x),
                          .w1 = get(w1),
                          .w2 = get(w2),
                          .ids = ids.array(),
                          .weights = get(weights),
                          .b1 = get(b1),
                          .b2 = get(b2),
                          .expert_map = expert_map.array(),
                          .activation = test.activation,
                          .transposed = test.transposed,
                          .interleaved = test.interleaved,
                          .alpha = 1.702,
                          .limit = 1.5});
  }

  Case test;
  int64_t up;
  DeviceArray x, w1, w2, ids, weights, b1, b2, expert_map, grad;
};

struct Part {
  const char* name;
  Dtype dtype;
  size_t count;
};

Bytes check(const Case& c) {
  const Layer layer(c);
  const Mlp mlp = layer.mlp(false), wide = layer.mlp(true);
  check_mlp(mlp);
  const size_t rows = size_t(c.tokens * c.hidden), w1 = layer.w1.values().size();
  const size_t w2 = layer.w2.values().size();
  Buffer<unsigned char> out(rows * size_t(dtype_size(c.dtype)));
  Buffer<unsigned char> z(size_t(c.save_z ? layer.up * mlp.slots() * dtype_size(c.dtype) : 0));
  void* const kept = c.save_z ? z.data() : nullptr;
  Buffer<unsigned char> scratch(size_t(moe_mlp_fwd_scratch(mlp)));
  expect_ok(cuda::moe_mlp_fwd(mlp, out.data(), kept, scratch.data(), nullptr).error);
  Values want(rows);
  moe::moe_mlp_fwd(wide, want.data(), nullptr, serial);
  const double near = 2 * rounding(c.dtype);
  expect_near(decode(c.dtype, out.bytes()), want, near, text(c) + ": out");

  const Part parts[] = {{"x", c.dtype, rows},
                        {"w1", c.dtype, w1},
                        {"w2", c.dtype, w2},
                        {"weights", weight_dtype(c), size_t(mlp.slots())},
                        {"b1", c.dtype, layer.b1.values().size()},
                        {"b2", c.dtype, layer.b2.values().size()}};
  std::vector<std::unique_ptr<Buffer<unsigned char>>> grads;
  std::vector<Values> expected;
  for (const Part& part : parts) {
    grads.push_back(
        std::make_unique<Buffer<unsigned char>>(part.count * size_t(dtype_size(part.dtype))));
    expected.emplace_back(part.count);
  }
  const auto pointers = [&](const auto& get) {
    return MlpGrads{
        get(0), get(1), get(2), get(3), c.bias ? get(4) : nullptr, c.bias ? get(5) : nullptr};
  };
  const MlpGrads got = pointers([&](size_t i) -> void* { return grads[i]->data(); });
  Buffer<unsigned char> more(size_t(moe_mlp_bwd_scratch(mlp, c.save_z, got)));
  expect_ok(cuda::moe_mlp_bwd(mlp, layer.grad.array().data, kept, got, more.data(), nullptr).error);
  moe::moe_mlp_bwd(wide, layer.grad.wide().data, nullptr,
                   pointers([&](size_t i) -> void* { return expected[i].data(); }), serial);
  Bytes all = out.bytes();
  for (size_t i = 0; i < grads.size(); ++i) {
    const Bytes bytes = grads[i]->bytes();
    expect_near(decode(parts[i].dtype, bytes), expected[i], 2 * near,
                text(c) + ": gradient of " + parts[i].name);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

constexpr const char* kActivations[] = {"swiglu", "geglu",        "geglu_tanh",
                                        "reglu",  "swiglu_clamp", "swiglu_oai",
                                        "silu",   "gelu",         "relu2"};

}  // namespace

TEST(moe_mlp_activations) {
  for (const char* activation : kActivations) {
    for (const bool interleaved : {false, true}) {
      check({.dtype = Dtype::kFloat64, .activation = activation, .interleaved = interleaved});
    }
  }
}

TEST(moe_mlp_layouts) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32, Dtype::kFloat64}) {
    for (const bool transposed : {false, true}) {
      for (const bool interleaved : {false, true}) {
        check({.dtype = dtype,
               .transposed = transposed,
               .interleaved = interleaved,
               .bias = true,
               .swapped = interleaved,
               .save_z = interleaved});
      }
    }
    check({.dtype = dtype, .activation = "gelu", .bias = true, .map = true});
    check({.dtype = dtype, .hidden = 17, .inner = 9, .skew = 1});
    check({.dtype = dtype, .hidden = 17, .inner = 9, .interleaved = true, .save_z = false});
  }
}

TEST(moe_mlp_sizes) {
  check({.tokens = 0});
  check({.tokens = 1, .top_k = 1, .experts = 1});
  check({.hidden = 1, .inner = 1});
  check({.tokens = 40, .only = 2});                                 // a tile of 64 rows
  check({.tokens = 7, .experts = 2, .hidden = 130, .inner = 150});  // tiles side by side
  check({.dtype = Dtype::kFloat32, .tokens = 70, .top_k = 1, .inner = 70, .only = 0});
}

TEST(moe_mlp_hopper) {
  const Hopper hopper;
  check({.hidden = 72, .inner = 40, .bias = true});
  check({.hidden = 72, .inner = 40, .activation = "swiglu_oai", .interleaved = true, .bias = true});
  check({.dtype = Dtype::kFloat16, .hidden = 16, .inner = 72, .activation = "relu2", .map = true});
  check({.tokens = 40, .hidden = 64, .inner = 136, .save_z = false, .only = 2});
  check({.tokens = 90, .top_k = 2, .experts = 2, .hidden = 40, .inner = 72});
  check({.tokens = 90,
         .top_k = 2,
         .experts = 2,
         .hidden = 40,
         .inner = 72,
         .transposed = true,
         .interleaved = true});
}

TEST(moe_mlp_schedules) {
  for_few_schedules([] { return check({.tokens = 4, .bias = true}); });
  for_few_schedules([] { return check({.dtype = Dtype::kFloat32, .tokens = 4, .save_z = false}); });
}

}  // namespace thrifty::moe::cuda::testing
