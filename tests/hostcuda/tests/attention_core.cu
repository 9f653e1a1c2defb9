// Attention's core on CUDA against the CPU's functions in float64, for plans that the CPU makes:
// modes, leaves and levels, packed sequences, groups of heads, odd lengths and widths, and lists
// that are given.
#include <numeric>

#include "attention/check.h"
#include "attention/hyper_cuda.h"
#include "core/parallel.h"
#include "device_array.h"
#include "hopper.h"

namespace thrifty::attention::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

struct Case {
  Dtype dtype = Dtype::kFloat32;
  const char* mode = "means";
  bool causal = false;
  int64_t batch = 1, q_heads = 2, k_heads = 1, nq = 90, nk = 90, d = 8, dv = 8;
  int64_t num_buckets = 6, window = 16, residual = 12, keep = 5, leaf = 16;
  std::vector<int64_t> cuts{};  // of packed sequences
  int skew = 0;
};

std::string text(const Case& c) {
  return std::string(dtype_name(c.dtype)) + " " + c.mode + (c.causal ? " causal" : "") + " " +
         std::to_string(c.nq) + " x " + std::to_string(c.nk) + " D " + std::to_string(c.d) + " " +
         std::to_string(c.dv);
}

// Accuracy of 16-bit weights in a sum, or of float's.
double near(const Case& c) { return is_half(c.dtype) ? 2 * rounding(c.dtype) : 2e-5; }

Values shifted(int64_t count, unsigned seed, double mean) {
  const auto drawn = normal_values<float>(size_t(count), seed);
  Values values(drawn.begin(), drawn.end());
  for (double& value : values) value += mean;
  return values;
}

struct Inputs {
  explicit Inputs(const Case& c)
      : q(c.dtype, {c.batch, c.q_heads, c.nq, c.d}, 1, false, c.skew, c.skew),
        k(c.dtype, {c.batch, c.k_heads, c.nk, c.d}, 2, false, 0, 2 * c.skew),
        v(c.dtype, {c.batch, c.k_heads, c.nk, c.dv},
          shifted(c.batch * c.k_heads * c.nk * c.dv, 3, 1), false, c.skew) {}
  DeviceArray q, k, v;
};

// A plan of the CPU's for the float64 values, and its copy for kernels.
struct MadePlan {
  explicit MadePlan(const Case& c, const Inputs& in) {
    args = check_recipe(
        "test", {c.mode, c.causal, true, c.num_buckets, c.window, c.residual, c.keep, c.leaf});
    std::vector<int64_t> cq = c.cuts, ck = c.cuts;
    if (c.cuts.empty()) cq = {0, c.nq}, ck = {0, c.nk};
    wide.problem = check_qkv("test", in.q.wide(), in.k.wide(), in.v.wide(), 0.7);
    narrow.problem = check_qkv("test", in.q.array(), in.k.array(), in.v.array(), 0.7);
    const Layout layout = make_layout(cq, ck, c.causal, c.leaf);
    const auto nodes = int64_t(layout.nodes.size());
    const bool means = args.mode == Mode::kMeans;
    const int64_t key_heads = c.batch * c.k_heads;
    numbers[0].resize(size_t(key_heads * layout.k_total));
    numbers[1].resize(size_t(means ? key_heads * nodes * (c.num_buckets + 1) : 0));
    numbers[2].resize(size_t(c.batch * c.q_heads * layout.q_total));
    numbers[3].resize(size_t(means ? 0 : key_heads * nodes * c.residual));
    planes = normal_values<float>(size_t(c.d) * 5, 9);
    args.planes = planes.data(), args.bits = 5, args.seed = 4;
    hyper_plan(wide.problem, layout, args,
               {numbers[0].data(), numbers[1].data(), numbers[2].data(), numbers[3].data()},
               serial);
    for (size_t i = 0; i < 4; ++i) {
      copies[i] = std::make_unique<Buffer<int32_t>>(numbers[i]);
    }
    wide.plan = {
        layout, args.mode,         c.num_buckets,     c.window,          c.residual,
        c.keep, numbers[0].data(), numbers[1].data(), numbers[2].data(), numbers[3].data()};
    narrow.plan = wide.plan;
    narrow.plan.order = copies[0]->data(), narrow.plan.offsets = copies[1]->data();
    narrow.plan.q_window = copies[2]->data(), narrow.plan.samples = copies[3]->data();
  }

  PlanArgs args;
  std::vector<float> planes;
  std::vector<int32_t> numbers[4];
  std::unique_ptr<Buffer<int32_t>> copies[4];
  Hyper wide, narrow;
};

struct Outputs {
  Values out, lse;
  Bytes bytes;
};

Outputs run_forward(const HyperCall& call) {
  const Problem& p = call.hyper.problem;
  const size_t rows = size_t(p.heads() * p.nq), sum = p.dtype == Dtype::kFloat64 ? 8 : 4;
  Buffer<unsigned char> out(rows * size_t(p.dv * dtype_size(p.dtype))), lse(rows * sum);
  Buffer<unsigned char> scratch(size_t(hyper_fwd_scratch(call)));
  expect_ok(cuda::hyper_fwd(call, out.data(), lse.data(), scratch.data(), nullptr).error);
  Outputs result{decode(p.dtype, out.bytes()),
                 decode(sum == 8 ? Dtype::kFloat64 : Dtype::kFloat32, lse.bytes()), out.bytes()};
  const Bytes more = lse.bytes();
  result.bytes.insert(result.bytes.end(), more.begin(), more.end());
  return result;
}

Outputs expected_forward(const Hyper& hyper) {
  const Problem& p = hyper.problem;
  Outputs want{Values(size_t(p.heads() * p.nq * p.dv)), Values(size_t(p.heads() * p.nq)), {}};
  attention::hyper_fwd(hyper, reinterpret_cast<std::byte*>(want.out.data()),
                       reinterpret_cast<std::byte*>(want.lse.data()), serial);
  return want;
}

// Values that are not finite on both sides agree; how many there are. Which of infinity and NaN is
// the order's affair: an entry of weight 0 whose mean is infinite makes the CPU's NaN, where the
// key itself is in the window.
int forget_not_finite(Values& actual, Values& expected) {
  int count = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isfinite(expected[i]) || std::isfinite(actual[i])) continue;
    actual[i] = expected[i] = 0, ++count;
  }
  return count;
}

// Rows that see nothing have -infinity on both sides.
void expect_lse(Values actual, Values expected, double near, const std::string& what) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::isinf(expected[i]) && actual[i] == expected[i]) actual[i] = expected[i] = 0;
  }
  expect_near(actual, expected, near, what);
}

void expect_outputs(const Outputs& got, const Outputs& want, double near, const std::string& what) {
  expect_near(got.out, want.out, near, what + ": out");
  expect_lse(got.lse, want.lse, near, what + ": lse");
}

constexpr const char* kGrads[] = {"q", "k", "v", "list_k", "list_v", "list_logw", "list_var"};

// Elements of each gradient.
std::vector<size_t> grad_sizes(const Hyper& hyper) {
  const Problem& p = hyper.problem;
  const int64_t keys = p.batch * p.k_heads * p.nk;
  const int64_t entries = p.batch * p.k_heads * hyper.given.list.count;
  return {size_t(p.heads() * p.nq * p.d),
          size_t(keys * p.d),
          size_t(keys * p.dv),
          size_t(entries * p.d),
          size_t(entries * p.dv),
          size_t(entries),
          size_t(entries)};
}

// Both backward passes get float64 of the same dout and dlse; out and lse are each one's own.
struct Upstream {
  explicit Upstream(const Case& c)
      : dout(c.dtype, {c.batch, c.q_heads, c.nq, c.dv}, 21, false, 0, c.skew),
        dlse(c.dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32,
             {c.batch, c.q_heads, c.nq}, 22) {}
  DeviceArray dout, dlse;
};

std::byte* bytes_of(const Array& a) { return static_cast<std::byte*>(a.data); }
template <class T>
std::byte* bytes_of(const T& values) {
  return reinterpret_cast<std::byte*>(const_cast<double*>(values.data()));
}

std::vector<Values> expected_backward(const Hyper& hyper, const Upstream& up, const Outputs& fwd) {
  std::vector<Values> grads;
  for (const size_t size : grad_sizes(hyper)) grads.emplace_back(size, 0.0);
  attention::hyper_bwd(
      hyper,
      {heads_of(up.dout.wide()),
       bytes_of(up.dlse.wide()),
       bytes_of(fwd.out),
       bytes_of(fwd.lse),
       bytes_of(grads[0]),
       bytes_of(grads[1]),
       bytes_of(grads[2]),
       {bytes_of(grads[3]), bytes_of(grads[4]), bytes_of(grads[5]), bytes_of(grads[6])}},
      serial);
  return grads;
}

Bytes run_backward(const HyperCall& call, const Upstream& up, const Outputs& fwd,
                   const std::vector<Values>& want, double near, const std::string& what) {
  const Problem& p = call.hyper.problem;
  const Dtype sum = p.dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32;
  const std::vector<size_t> sizes = grad_sizes(call.hyper);
  const size_t out_bytes = size_t(p.heads() * p.nq * p.dv * dtype_size(p.dtype));
  Buffer<unsigned char> out(Bytes(fwd.bytes.begin(), fwd.bytes.begin() + int64_t(out_bytes)));
  Buffer<unsigned char> lse(Bytes(fwd.bytes.begin() + int64_t(out_bytes), fwd.bytes.end()));
  std::vector<std::unique_ptr<Buffer<unsigned char>>> grads;
  for (size_t i = 0; i < 7; ++i) {
    grads.push_back(std::make_unique<Buffer<unsigned char>>(
        sizes[i] * size_t(dtype_size(i < 3 ? p.dtype : sum))));
  }
  const auto at = [&](size_t i) { return reinterpret_cast<std::byte*>(grads[i]->data()); };
  const auto bytes = [](Buffer<unsigned char>& b) {
    return reinterpret_cast<std::byte*>(b.data());
  };
  Buffer<unsigned char> scratch(size_t(hyper_bwd_scratch(call)));
  expect_ok(cuda::hyper_bwd(call,
                            {heads_of(up.dout.array()),
                             bytes_of(up.dlse.array()),
                             bytes(out),
                             bytes(lse),
                             at(0),
                             at(1),
                             at(2),
                             {at(3), at(4), at(5), at(6)}},
                            scratch.data(), nullptr)
                .error);
  Bytes all;
  for (size_t i = 0; i < 7; ++i) {
    const Bytes got = grads[i]->bytes();
    Values actual = decode(i < 3 ? p.dtype : sum, got), expected = want[i];
    forget_not_finite(actual, expected);
    expect_near(actual, expected, near, what + ": gradient of " + kGrads[i]);
    all.insert(all.end(), got.begin(), got.end());
  }
  return all;
}

// A gradient has the rounded result in it (the row's <dout, out>), and rounded weights.
double near_grad(const Case& c) { return is_half(c.dtype) ? 4 * rounding(c.dtype) : 1e-4; }

Bytes check_call(const Case& c, const Hyper& wide, const HyperCall& call) {
  Outputs got = run_forward(call);
  const Outputs want = expected_forward(wide);
  expect_outputs(got, want, near(c), text(c));
  const Upstream up(c);
  const Bytes grads =
      run_backward(call, up, got, expected_backward(wide, up, want), near_grad(c), text(c));
  got.bytes.insert(got.bytes.end(), grads.begin(), grads.end());
  return got.bytes;
}

Bytes check_forward(const Case& c) {
  const Inputs in(c);
  const MadePlan plan(c, in);
  const Outputs got = run_forward({plan.narrow});
  expect_outputs(got, expected_forward(plan.wide), near(c), text(c));
  return got.bytes;
}

Bytes check(const Case& c) {
  const Inputs in(c);
  const MadePlan plan(c, in);
  return check_call(c, plan.wide, {plan.narrow});
}

constexpr Dtype kDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32, Dtype::kFloat64};

// hyper_core: windows that overlap, queries without one, entries that stand for sorted keys.
struct GivenCase {
  Case shape;
  int64_t items = 5, entries = 9, window = 20;
  bool range = true, var = true;
};

struct GivenInputs {
  explicit GivenInputs(const GivenCase& g) : in(g.shape), test(g) {
    const Case& c = g.shape;
    const int64_t q_heads = c.batch * c.q_heads, k_heads = c.batch * c.k_heads;
    q_order = permutations(q_heads, c.nq, 7), k_order = permutations(k_heads, c.nk, 11);
    for (int64_t h = 0; h < q_heads; ++h) {
      for (int64_t w = 0; w <= g.items; ++w) {
        offsets.push_back(double(std::clamp<int64_t>(
            3 + w * (c.nq - 7) / std::max<int64_t>(g.items, 1) + h % 2, 0, c.nq)));
      }
    }
    for (int64_t h = 0; h < k_heads; ++h) {
      for (int64_t w = 0; w < g.items; ++w) {
        const int64_t begin = (w * 17 + h * 5) % std::max<int64_t>(1, c.nk - g.window);
        windows.push_back(double(begin));
        windows.push_back(double(w == 1 ? begin : std::min(c.nk, begin + g.window)));
      }
      for (int64_t e = 0; e < g.entries; ++e) {
        ranges.push_back(double(e * 7 % c.nk));
        ranges.push_back(double(std::min(c.nk, e * 7 % c.nk + e % 5)));
      }
    }
    const Dtype sum = c.dtype == Dtype::kFloat64 ? c.dtype : Dtype::kFloat32;
    const std::vector<int64_t> shape = {c.batch, c.k_heads, g.entries};
    const auto with = [&](int64_t last) {
      std::vector<int64_t> all = shape;
      all.push_back(last);
      return all;
    };
    const auto integers = [&](int64_t heads, int64_t last, const Values& values) {
      return DeviceArray(Dtype::kInt32, {c.batch, heads, last}, values);
    };
    arrays[0] = integers(c.q_heads, c.nq, q_order);
    arrays[1] = integers(c.q_heads, g.items + 1, offsets);
    arrays[2] = integers(c.k_heads, c.nk, k_order);
    arrays[3] = DeviceArray(Dtype::kInt32, {c.batch, c.k_heads, g.items, 2}, windows);
    if (g.entries == 0) return;
    arrays[4] = DeviceArray(c.dtype, with(c.d), 31),
    arrays[5] = DeviceArray(c.dtype, with(c.dv), 32);
    arrays[6] = DeviceArray(sum, shape, 33);
    if (g.range) arrays[7] = DeviceArray(Dtype::kInt32, with(2), ranges);
    Values var(size_t(c.batch * c.k_heads * g.entries));
    for (size_t i = 0; i < var.size(); ++i) var[i] = double(i % 4) / 8;
    if (g.var) arrays[8] = DeviceArray(sum, shape, var);
  }
  static Values permutations(int64_t heads, int64_t n, int64_t step) {
    Values all;
    while (n > 1 && std::gcd(step, n) != 1) ++step;
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t i = 0; i < n; ++i) all.push_back(double((i * step + h) % n));
    }
    return all;
  }
  attention::CoreArgs args(bool wide) const {
    const auto get = [&](const DeviceArray& a) { return wide ? a.wide() : a.array(); };
    return {get(in.q),
            get(in.k),
            get(in.v),
            get(arrays[0]),
            get(arrays[1]),
            get(arrays[2]),
            get(arrays[3]),
            get(arrays[4]),
            get(arrays[5]),
            get(arrays[6]),
            get(arrays[7]),
            get(arrays[8]),
            0.7};
  }

  Inputs in;
  GivenCase test;
  Values q_order, k_order, offsets, windows, ranges;
  DeviceArray arrays[9];
};

Bytes check_given(const GivenCase& g) {
  const GivenInputs in(g);
  std::vector<int32_t> q_window, none;
  const Hyper wide = check_core(in.args(true), q_window);
  const HyperCall call{check_core(in.args(false), none, true),
                       static_cast<const int32_t*>(in.arrays[0].array().data),
                       static_cast<const int32_t*>(in.arrays[1].array().data)};
  return check_call(g.shape, wide, call);
}

}  // namespace

TEST(attention_full) {
  for (const Dtype dtype : kDtypes) {
    for (const char* mode : {"means", "paper"}) check({.dtype = dtype, .mode = mode});
  }
}

TEST(attention_causal) {
  for (const Dtype dtype : kDtypes) {
    check({.dtype = dtype, .causal = true});
  }
  check({.mode = "paper", .causal = true});
}

TEST(attention_shapes) {
  const Dtype half = Dtype::kBFloat16;
  check({.dtype = half, .q_heads = 1, .nq = 1, .nk = 1, .d = 1, .dv = 1});
  check(
      {.dtype = half, .batch = 2, .q_heads = 4, .k_heads = 2, .nq = 33, .nk = 70, .d = 9, .dv = 5});
  check({.dtype = half, .causal = true, .q_heads = 1, .nq = 37, .nk = 101, .dv = 11, .skew = 1});
  check({.causal = true, .q_heads = 1, .nq = 41, .nk = 23, .skew = 1});  // rows that see nothing
  check({.q_heads = 1, .nq = 83, .nk = 50, .d = 3, .dv = 70, .skew = 2});
  check({.dtype = half, .q_heads = 1, .nq = 150, .nk = 200, .d = 96, .dv = 40, .window = 70});
  check({.dtype = half, .q_heads = 1, .nq = 20, .nk = 40, .d = 200, .dv = 136});
  check({.q_heads = 1, .nq = 20, .nk = 40, .d = 200, .dv = 130});
  check({.nq = 0}), check({.nk = 0}), check({.causal = true, .batch = 0});
}

TEST(attention_recipes) {
  check({.q_heads = 1, .num_buckets = 1}), check({.q_heads = 1, .keep = 0});
  check({.q_heads = 1, .keep = 90}), check({.q_heads = 1, .residual = 0});
  check({.q_heads = 1, .window = 1}), check({.q_heads = 1, .window = 90});
  check({.mode = "paper", .q_heads = 1, .nq = 40, .residual = 120});
  check({.mode = "paper", .q_heads = 1, .window = 1, .residual = 0});
}

TEST(attention_packed) {
  const std::vector<int64_t> cuts = {0, 40, 40, 43, 44, 111};
  for (const bool causal : {false, true}) {
    check({.causal = causal, .q_heads = 1, .nq = 111, .nk = 111, .cuts = cuts});
  }
  check({.mode = "paper", .causal = true, .q_heads = 1, .nq = 111, .nk = 111, .cuts = cuts});
}

TEST(attention_given) {
  const Case half{.dtype = Dtype::kBFloat16, .nq = 50, .nk = 70};
  for (const Dtype dtype : kDtypes) check_given({{.dtype = dtype, .nq = 50, .nk = 70}});
  check_given({half, 5, 0}), check_given({half, 5, 9, 20, false}),
      check_given({half, 5, 80, 20, true, false});
  check_given({half, 0}), check_given({{.nq = 0, .nk = 3}, 2, 3, 2});
}

// What rows see of values that are not finite, and that others do not.
void check_not_finite(const Case& c) {
  Inputs in(c);
  Values v = in.v.values();
  v[size_t(37 * c.dv + 2)] = NAN, v[size_t(52 * c.dv + 3)] = INFINITY;
  v[size_t(5 * c.dv)] = -INFINITY;
  in.v = DeviceArray(c.dtype, {c.batch, c.k_heads, c.nk, c.dv}, v);
  const MadePlan plan(c, in);
  Outputs got = run_forward({plan.narrow}), want = expected_forward(plan.wide);
  const int special = forget_not_finite(got.out, want.out);
  const int plain = int(want.out.size()) - special;
  expect(special > 10 && plain > 100, "some rows see them, others do not");
  expect_outputs(got, want, near(c), text(c));
}

TEST(attention_not_finite) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
    for (const bool causal : {false, true}) {
      check_not_finite({.dtype = dtype, .causal = causal, .q_heads = 1, .keep = 2});
    }
  }
}

// Gradients of rows that do not see an infinite value behind them, which shares their tiles.
TEST(attention_not_finite_backward) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
    const Case c{.dtype = dtype, .causal = true, .q_heads = 1};
    Inputs in(c);
    Values v = in.v.values();
    v[size_t(77 * c.dv + 2)] = INFINITY;
    in.v = DeviceArray(dtype, {c.batch, c.k_heads, c.nk, c.dv}, v);
    const MadePlan plan(c, in);
    const Upstream up(c);
    const Outputs got = run_forward({plan.narrow}), want = expected_forward(plan.wide);
    const std::vector<Values> grads = expected_backward(plan.wide, up, want);
    const auto finite = std::count_if(grads[0].begin(), grads[0].end(),
                                      [](double value) { return std::isfinite(value); });
    expect(finite == 77 * c.d, "queries before 77 do not see it");
    run_backward({plan.narrow}, up, got, grads, near_grad(c), text(c));
  }
}

// So many queries that a list's gradient has several parts.
TEST(attention_splits) {
  check({.dtype = Dtype::kFloat64, .q_heads = 1, .nq = 1040, .nk = 20, .num_buckets = 3});
  check_given({{.dtype = Dtype::kFloat64, .q_heads = 1, .nq = 1040, .nk = 20}, 3, 5, 8});
}

// Rows do not depend, bit for bit, on keys behind them, which share their tiles.
void check_causal_bits(const Case& c) {
  Inputs in(c);
  MadePlan plan(c, in);
  const Bytes before = run_forward({plan.narrow}).bytes;
  Values k = in.k.values();
  for (size_t i = size_t(57 * c.d); i < k.size(); ++i) k[i] = 3 - k[i];
  in.k = DeviceArray(c.dtype, {c.batch, c.k_heads, c.nk, c.d}, k);
  plan.narrow.problem.k = heads_of(in.k.array());
  const Bytes after = run_forward({plan.narrow}).bytes;
  const auto rows = int64_t(57 * c.dv * dtype_size(c.dtype));
  expect(std::equal(before.begin(), before.begin() + rows, after.begin()), "rows before 57");
  expect(before != after, "rows from 57 on see the change");
}

TEST(attention_causal_bits) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
    check_causal_bits({.dtype = dtype, .causal = true, .q_heads = 1});
  }
}

// The same on Hopper, where rows are of 16-byte pieces and not too wide.
constexpr Dtype kBf16 = Dtype::kBFloat16, kFp16 = Dtype::kFloat16;
const Case kHopper[] = {
    {.dtype = kBf16},
    {.dtype = kFp16, .mode = "paper"},
    {.dtype = kBf16, .causal = true},
    {.dtype = kFp16, .causal = true},
    {.dtype = kBf16, .mode = "paper", .causal = true},
    {.dtype = kBf16, .q_heads = 1, .nq = 1, .nk = 1},
    {.dtype = kBf16, .batch = 2, .q_heads = 4, .k_heads = 2, .nq = 33, .nk = 70, .d = 24},
    {.dtype = kBf16, .causal = true, .q_heads = 1, .nq = 37, .nk = 101, .dv = 16},
    {.dtype = kBf16, .causal = true, .q_heads = 1, .nq = 41, .nk = 23},  // rows that see nothing
    {.dtype = kBf16, .q_heads = 1, .nq = 150, .nk = 200, .d = 96, .dv = 40, .window = 70},
    {.dtype = kFp16, .q_heads = 1, .nq = 20, .nk = 400, .d = 128, .dv = 128, .window = 320},
    {.dtype = kBf16, .nq = 300, .nk = 300, .d = 64, .dv = 64, .num_buckets = 20, .window = 50},
    {.dtype = kBf16, .causal = true, .q_heads = 1, .nq = 90, .d = 64, .dv = 128},
    {.dtype = kBf16,
     .causal = true,
     .nq = 300,
     .nk = 300,
     .leaf = 300},  // blocks of keys to the end
    {.dtype = kBf16, .q_heads = 1, .num_buckets = 1},
    {.dtype = kBf16, .q_heads = 1, .keep = 0},
    {.dtype = kBf16, .q_heads = 1, .keep = 90},
    {.dtype = kBf16, .q_heads = 1, .residual = 0},
    {.dtype = kBf16, .q_heads = 1, .window = 1},
    {.dtype = kBf16, .q_heads = 1, .window = 90},
    {.dtype = kFp16, .mode = "paper", .q_heads = 1, .nq = 40, .residual = 120},
    {.dtype = kFp16, .mode = "paper", .q_heads = 1, .window = 1, .residual = 0},
    {.dtype = kBf16, .q_heads = 1, .nq = 111, .nk = 111, .cuts = {0, 40, 40, 43, 44, 111}},
    {.dtype = kBf16, .causal = true, .nq = 111, .nk = 111, .cuts = {0, 40, 40, 43, 44, 111}},
};

TEST(attention_hopper) {
  const Hopper hopper;
  for (const Case& c : kHopper) check_forward(c);
  check({.dtype = kBf16, .causal = true});
  const Case half{.dtype = kBf16, .nq = 50, .nk = 70};
  check_given({half}), check_given({half, 5, 0}), check_given({half, 5, 9, 20, false});
  check_given({half, 5, 80, 20, true, false}), check_given({half, 0});
  for (const Dtype dtype : {kBf16, kFp16}) {
    for (const bool causal : {false, true}) {
      check_not_finite({.dtype = dtype, .causal = causal, .q_heads = 1, .keep = 2});
    }
    check_causal_bits({.dtype = dtype, .causal = true, .q_heads = 1});
  }
  check_not_finite({.dtype = kBf16, .q_heads = 1, .d = 96, .dv = 128});
}

TEST(attention_hopper_schedules) {
  const Hopper hopper;
  for (const int64_t width : {8, 80}) {
    const Case c{.dtype = kBf16,
                 .causal = true,
                 .q_heads = 1,
                 .nq = 22,
                 .nk = 22,
                 .d = width,
                 .dv = width,
                 .leaf = 8};
    for_few_schedules([&] { return check_forward(c); });
  }
  for_few_schedules([] {
    return check_forward({.dtype = kFp16, .q_heads = 1, .nq = 150, .nk = 330, .window = 250});
  });
}

#if defined(THRIFTY_HOST_CUDA)
// More shared memory than the other kernels for such operands launch with.
TEST(attention_hopper_is_chosen) {
  const Hopper hopper;
  const auto chosen = [](const Case& c) {
    return runs_on_hopper([&] { check_forward(c); }, size_t(80) << 10);
  };
  for (const Case& c : kHopper) expect(chosen(c), text(c) + ": not Hopper's kernel");
  for (const Case& c : {Case{.dtype = kBf16, .d = 12}, Case{.dtype = kBf16, .dv = 4},
                        Case{.dtype = kBf16, .skew = 1}, Case{.dtype = Dtype::kFloat32}}) {
    expect(!chosen(c), text(c) + ": Hopper's kernel");
    check_forward(c);
  }
}
#endif

// Whatever integers a plan holds, nothing outside the arrays is touched. A key that stands twice in
// an order has two owners, whose sums race: numbers of a plan that is no plan.
#ifndef THRIFTY_HOSTCUDA_RACE
TEST(attention_bad_plans) {
  for (const char* mode : {"means", "paper"}) {
    for (const int32_t bad : {INT32_MIN, -1, INT32_MAX}) {
      const Case c{.mode = mode, .causal = true, .q_heads = 1, .nq = 40, .nk = 40};
      const Inputs in(c);
      const MadePlan plan(c, in);
      for (size_t n = 0; n < 4; ++n) {
        for (size_t i = 0; i < plan.copies[n]->size(); i += 2) plan.copies[n]->data()[i] = bad;
      }
      const Outputs got = run_forward({plan.narrow});
      const Upstream up(c);
      const HyperCall call{plan.narrow};
      Buffer<unsigned char> scratch(size_t(hyper_bwd_scratch(call)));
      Values dq(size_t(c.nq * c.d)), dk(size_t(c.nk * c.d)), dv(size_t(c.nk * c.dv));
      expect_ok(
          cuda::hyper_bwd(call,
                          {heads_of(up.dout.array()),
                           nullptr,
                           reinterpret_cast<const std::byte*>(got.bytes.data()),
                           reinterpret_cast<const std::byte*>(got.bytes.data()) + c.nq * c.dv * 4,
                           bytes_of(dq),
                           bytes_of(dk),
                           bytes_of(dv),
                           {}},
                          scratch.data(), nullptr)
              .error);
    }
  }
}
#endif

TEST(attention_schedules) {
  const Case c{
      .dtype = Dtype::kBFloat16, .causal = true, .q_heads = 1, .nq = 22, .nk = 22, .leaf = 8};
  for_few_schedules([&] { return check(c); });
  for_few_schedules([] {
    return check({.mode = "paper", .causal = true, .q_heads = 1, .nq = 22, .nk = 22, .leaf = 8});
  });
  for_few_schedules(
      [] { return check_given({{.dtype = Dtype::kFloat16, .q_heads = 1, .nq = 9, .nk = 30}}); });
}

}  // namespace thrifty::attention::cuda::testing
