// Every way a call of the ensemble layers can be wrong, told before anything is allocated.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "ensemble/linear.h"

namespace thrifty::ensemble {
namespace {

struct Expect {
  const std::string& op;

  void rank(const char* name, const Array& a, int rank, const char* shape) const {
    THRIFTY_CHECK(a.ndim == rank, op, ": ", name, ": expected shape ", shape, ", got ",
                  shape_text(a));
  }
  void shape(const char* name, const Array& a, int64_t rows, int64_t columns,
             const char* text) const {
    THRIFTY_CHECK(a.ndim == 2 && a.shape[0] == rows && a.shape[1] == columns, op, ": ", name,
                  ": expected shape ", text, " = (", rows, ", ", columns, "), got ", shape_text(a));
  }
  void floating(const char* name, const Array& a) const {
    THRIFTY_CHECK(is_floating(a.dtype), op, ": ", name,
                  ": expected float32, bfloat16, float16 or float64, got ", dtype_name(a.dtype));
  }
  void same_dtype(const char* name, const Array& a, Dtype dtype) const {
    THRIFTY_CHECK(a.dtype == dtype, op, ": ", name, ": expected ", dtype_name(dtype),
                  " like x, got ", dtype_name(a.dtype));
  }
  // r, s, bias and r_next may stay float32 beside 16-bit x: autocast keeps them so.
  void vector_dtype(const char* name, const Array& a, Dtype dtype) const {
    THRIFTY_CHECK(a.dtype == dtype || (is_half(dtype) && a.dtype == Dtype::kFloat32), op, ": ",
                  name, ": expected ", dtype_name(dtype), " like x",
                  is_half(dtype) ? " or float32" : "", ", got ", dtype_name(a.dtype));
  }
};

// k as given, or from the first argument that tells.
int64_t members(const LayerArgs& args) {
  const std::string& op = args.op;
  int64_t k = args.k;
  THRIFTY_CHECK(k >= 0, op, ": k: expected a positive number, got ", k);
  if (k == 0 && args.r) k = args.r.ndim == 2 ? args.r.shape[0] : 0;
  if (k == 0 && args.s) k = args.s.ndim == 2 ? args.s.shape[0] : 0;
  if (k == 0 && args.r_next) k = args.r_next.ndim == 2 ? args.r_next.shape[0] : 0;
  if (k == 0 && args.bias && args.bias.ndim == 2) k = args.bias.shape[0];
  if (k == 0 && args.group == 0 && args.x.ndim == 3) k = args.x.shape[1];
  THRIFTY_CHECK(k > 0, op,
                ": k: expected the number of members, since no argument tells it, got 0");
  return k;
}

void set_rows(const Expect& expect, const LayerArgs& args, int64_t k, Layer& layer) {
  const Array& x = args.x;
  THRIFTY_CHECK(args.group >= 0, expect.op, ": group: expected None or a positive number, got ",
                args.group);
  if (args.group > 0) {
    expect.rank("x", x, 2, "(rows, in) with group");
  } else {
    THRIFTY_CHECK(x.ndim == 2 || (x.ndim == 3 && x.shape[1] == k), expect.op,
                  ": x: expected shape (B, in) or (B, k, in) with k = ", k, ", got ",
                  shape_text(x));
  }
  // The row number is one of Philox's four 32-bit counters; with 31-bit k no product of sizes
  // overflows.
  constexpr int64_t kMaxRows = (int64_t(1) << 32) - 1, kMaxMembers = (int64_t(1) << 31) - 1;
  THRIFTY_CHECK(k <= kMaxMembers, expect.op, ": k: expected fewer than 2^31 members, got ", k);
  THRIFTY_CHECK(x.shape[0] <= kMaxRows / (args.group > 0 ? 1 : k), expect.op,
                ": x: expected fewer than 2^32 rows of all members, got ", shape_text(x),
                " with k = ", k);
  layer.in = x.size(-1);
  if (args.group > 0) {
    // A group that holds all rows is as good as a longer one.
    layer.map = {x.shape[0], k, std::min(args.group, std::max<int64_t>(1, x.shape[0]))};
    layer.x_outer = k * x.stride(0), layer.x_inner = x.stride(0);
  } else {
    layer.map = {x.shape[0] * k, k, 1};
    layer.x_outer = x.stride(0), layer.x_inner = x.ndim == 3 ? x.stride(1) : 0;
    layer.shared_x = x.ndim == 2;
  }
}

void set_dropout(const Expect& expect, const LayerArgs& args, Layer& layer) {
  const double p = args.dropout;
  THRIFTY_CHECK(p >= 0 && p < 1, expect.op, ": dropout: expected a number in [0, 1), got ", p);
  const Array& seed = args.seed;
  THRIFTY_CHECK(p == 0 || seed, expect.op,
                ": seed: expected an int64 tensor (seed, offset) when dropout > 0, got None");
  if (seed) {
    THRIFTY_CHECK(seed.dtype == Dtype::kInt64 && seed.ndim == 1 && seed.shape[0] == 2, expect.op,
                  ": seed: expected an int64 tensor of shape (2,), got ", dtype_name(seed.dtype),
                  " ", shape_text(seed));
  }
  if (p == 0) return;
  layer.seed = seed;
  const auto* words = args.on_device ? nullptr : static_cast<const int64_t*>(seed.data);
  layer.dropout = words == nullptr
                      ? Dropout(p, 0, 0)
                      : Dropout(p, uint64_t(words[0]), uint64_t(words[seed.stride(0)]));
}

// What both layers share: x, its dtype, activation and dropout.
Layer start(const Expect& expect, const LayerArgs& args) {
  expect.floating("x", args.x);
  expect.same_dtype("weight", args.weight, args.x.dtype);
  Layer layer;
  layer.dtype = args.x.dtype;
  layer.x = args.x.data;
  layer.weight = args.weight.data;
  layer.activation = parse_activation(expect.op, args.activation);
  set_dropout(expect, args, layer);
  return layer;
}

void set_bias(const Expect& expect, const LayerArgs& args, bool may_be_shared, Layer& layer) {
  if (!args.bias) return;
  expect.vector_dtype("bias", args.bias, layer.dtype);
  if (may_be_shared && args.bias.ndim == 1) {
    THRIFTY_CHECK(args.bias.shape[0] == layer.out, expect.op, ": bias: expected shape (out,) = (",
                  layer.out, ",) or (k, out), got ", shape_text(args.bias));
  } else {
    expect.shape("bias", args.bias, layer.map.k, layer.out, "(k, out)");
  }
  layer.bias = args.bias;
}

}  // namespace

Activation parse_activation(const std::string& op, std::string_view name) {
  constexpr std::string_view kNames[] = {"none", "relu", "silu", "gelu", "gelu_tanh"};
  const auto found = std::find(std::begin(kNames), std::end(kNames), name);
  THRIFTY_CHECK(found != std::end(kNames), op,
                ": activation: expected none, relu, silu, gelu or gelu_tanh, got ", name);
  return Activation(found - std::begin(kNames));
}

int64_t RowMap::samples(int64_t member) const {
  const int64_t cycle = group * k;
  const int64_t tail = rows % cycle - member * group;
  return rows / cycle * group + std::clamp<int64_t>(tail, 0, group);
}

Layer check_batch_ensemble_linear(const LayerArgs& args) {
  const Expect expect{args.op};
  Layer layer = start(expect, args);
  set_rows(expect, args, members(args), layer);
  const int64_t k = layer.map.k;
  THRIFTY_CHECK(args.weight.ndim == 2 && args.weight.shape[1] == layer.in, expect.op,
                ": weight: expected shape (out, in) with in = ", layer.in, ", got ",
                shape_text(args.weight));
  layer.out = args.weight.shape[0];
  const auto vector = [&](const char* name, const Array& a, int64_t width, const char* shape) {
    if (!a) return a;
    expect.vector_dtype(name, a, layer.dtype);
    expect.shape(name, a, k, width, shape);
    return a;
  };
  layer.r = vector("r", args.r, layer.in, "(k, in)");
  layer.s = vector("s", args.s, layer.out, "(k, out)");
  layer.r_next = vector("r_next", args.r_next, layer.out, "(k, out)");
  set_bias(expect, args, true, layer);
  return layer;
}

Layer check_ensemble_linear(const LayerArgs& args) {
  const Expect expect{args.op};
  Layer layer = start(expect, args);
  expect.rank("weight", args.weight, 3, "(k, in, out)");
  const int64_t k = args.weight.shape[0];
  THRIFTY_CHECK(k > 0, expect.op, ": weight: expected at least one member, got ",
                shape_text(args.weight));
  set_rows(expect, args, k, layer);
  THRIFTY_CHECK(args.weight.shape[1] == layer.in, expect.op,
                ": weight: expected shape (k, in, out) with in = ", layer.in, ", got ",
                shape_text(args.weight));
  layer.packed = true;
  layer.out = args.weight.shape[2];
  set_bias(expect, args, false, layer);
  return layer;
}

std::vector<int64_t> out_shape(const Layer& layer, bool grouped) {
  if (grouped) return {layer.rows(), layer.out};
  return {layer.rows() / layer.map.k, layer.map.k, layer.out};
}

bool backward_needs_z(const Layer& layer, bool needs_s, bool needs_r_next) {
  return layer.activation != Activation::kNone || (layer.s && needs_s) ||
         (layer.r_next && needs_r_next);
}

}  // namespace thrifty::ensemble
