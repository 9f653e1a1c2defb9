#include "attention/check.h"

#include <algorithm>

#include "core/error.h"

namespace thrifty::attention {
namespace {

constexpr int64_t kMaxInt32 = (int64_t(1) << 31) - 1;

bool has_shape(const Array& a, std::initializer_list<int64_t> shape) {
  return a.ndim == int(shape.size()) && std::equal(shape.begin(), shape.end(), a.shape.begin());
}

void check_shape(const char* op, const char* name, const Array& a, Dtype dtype,
                 std::initializer_list<int64_t> shape) {
  Array want{.dtype = dtype, .ndim = int(shape.size())};
  std::copy(shape.begin(), shape.end(), want.shape.begin());
  THRIFTY_CHECK(a.dtype == dtype && has_shape(a, shape), op, ": ", name, ": expected ",
                dtype_name(dtype), " ", shape_text(want), ", got ", dtype_name(a.dtype), " ",
                shape_text(a));
}

void check_range(const char* op, const char* name, const Array& a, int64_t low, int64_t high) {
  const auto* data = static_cast<const int32_t*>(a.data);
  const int64_t n = a.numel();
  int32_t least = 0, most = 0;
  for (int64_t i = 0; i < n; ++i) {
    least = std::min(i == 0 ? data[i] : least, data[i]);
    most = std::max(i == 0 ? data[i] : most, data[i]);
  }
  THRIFTY_CHECK(n == 0 || (least >= low && most <= high), op, ": ", name,
                ": expected numbers from ", low, " to ", high, ", got ",
                least < low ? least : most);
}

Dtype sums(Dtype dtype) { return dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32; }

void check_mean(const char* op, const Array& x, const Array& mean) {
  if (!mean) return;
  bool fits = mean.dtype == x.dtype && mean.ndim == x.ndim - 1 && mean.size(-1) == x.size(-1);
  for (int d = 0; fits && d < x.ndim - 2; ++d) fits = mean.size(d) == x.size(d);
  THRIFTY_CHECK(fits, op, ": mean: expected the dtype of x and its shape without N, ",
                dtype_name(x.dtype), " ", shape_text(x), ", got ", dtype_name(mean.dtype), " ",
                shape_text(mean));
}

const int32_t* ints(const Array& a) { return static_cast<const int32_t*>(a.data); }

}  // namespace

Heads heads_of(const Array& a) {
  return {static_cast<std::byte*>(a.data), a.stride(0), a.stride(1), a.stride(2)};
}

Problem check_qkv(const char* op, const Array& q, const Array& k, const Array& v, double scale) {
  const auto rank = [&](const char* name, const Array& a) {
    THRIFTY_CHECK(a.ndim == 4, op, ": ", name, ": expected shape (B, H, N, D), got ",
                  shape_text(a));
    THRIFTY_CHECK(is_floating(a.dtype), op, ": ", name, ": expected a floating dtype, got ",
                  dtype_name(a.dtype));
    THRIFTY_CHECK(a.dtype == q.dtype, op, ": ", name, ": expected the dtype of q, ",
                  dtype_name(q.dtype), ", got ", dtype_name(a.dtype));
    THRIFTY_CHECK(a.size(0) == q.size(0), op, ": ", name, ": expected the batch of q, ", q.size(0),
                  ", got ", shape_text(a));
    THRIFTY_CHECK(a.size(2) < kMaxInt32, op, ": ", name,
                  ": expected fewer than 2^31 - 1 rows, got ", a.size(2));
    THRIFTY_CHECK(a.size(3) >= 1 && a.size(3) <= 256, op, ": ", name,
                  ": expected a last dimension of 1 to 256, got ", a.size(3));
  };
  rank("q", q), rank("k", k), rank("v", v);
  THRIFTY_CHECK(k.size(3) == q.size(3), op, ": k: expected the last dimension of q, ", q.size(3),
                ", got ", shape_text(k));
  THRIFTY_CHECK(v.size(1) == k.size(1) && v.size(2) == k.size(2), op,
                ": v: expected heads and rows of k, ", shape_text(k), ", got ", shape_text(v));
  const bool divides = k.size(1) > 0 ? q.size(1) % k.size(1) == 0 : q.size(1) == 0;
  THRIFTY_CHECK(divides, op, ": k: expected a number of heads that divides q's ", q.size(1),
                ", got ", k.size(1));
  THRIFTY_CHECK(scale == scale && scale - scale == 0, op, ": scale: expected a finite number, got ",
                scale);
  return {q.dtype,   q.size(0), q.size(1),   k.size(1),   q.size(2),   k.size(2),
          q.size(3), v.size(3), heads_of(q), heads_of(k), heads_of(v), scale};
}

std::vector<int64_t> check_cuts(const char* op, const char* name, const Array& cuts, int64_t n,
                                int64_t batch) {
  if (!cuts) return {0, n};
  THRIFTY_CHECK(cuts.dtype == Dtype::kInt64 && cuts.ndim == 1 && cuts.size(0) >= 1, op, ": ", name,
                ": expected int64 (sequences + 1,), got ", dtype_name(cuts.dtype), " ",
                shape_text(cuts));
  THRIFTY_CHECK(batch == 1, op, ": ", name, ": expected a batch of 1 beside it, got ", batch);
  const auto* data = static_cast<const int64_t*>(cuts.data);
  std::vector<int64_t> all(data, data + cuts.size(0));
  THRIFTY_CHECK(std::is_sorted(all.begin(), all.end()), op, ": ", name,
                ": expected numbers that do not decrease");
  THRIFTY_CHECK(all.front() == 0 && all.back() == n, op, ": ", name, ": expected 0 first and ", n,
                " last, got ", all.front(), " and ", all.back());
  return all;
}

PlanArgs check_recipe(const char* op, const RecipeArgs& args) {
  const auto at_least = [&](const char* name, int64_t value, int64_t low) {
    THRIFTY_CHECK(value >= low && value <= kMaxInt32, op, ": ", name,
                  ": expected an integer of at least ", low, ", got ", value);
  };
  THRIFTY_CHECK(args.mode == "means" || args.mode == "paper", op,
                ": mode: expected 'means' or 'paper', got '", args.mode, "'");
  at_least("num_buckets", args.num_buckets, 1), at_least("window", args.window, 1);
  at_least("residual", args.residual, 0), at_least("keep", args.keep, 0);
  at_least("leaf", args.leaf, 1);
  THRIFTY_CHECK(args.num_buckets <= 1 << 16, op, ": num_buckets: expected at most 65536, got ",
                args.num_buckets);
  return {.mode = args.mode == "means" ? Mode::kMeans : Mode::kPaper,
          .causal = args.causal,
          .center = args.center,
          .num_buckets = args.num_buckets,
          .window = args.window,
          .residual = args.residual,
          .keep = args.keep,
          .leaf = args.leaf};
}

bool fits_planes(const Array& planes, int64_t d) {
  return planes.dtype == Dtype::kFloat32 && planes.ndim == 2 && planes.size(0) == d &&
         planes.size(1) >= 1 && planes.size(1) <= 16;
}

void check_planes(const Array& planes, int64_t d, PlanArgs& args) {
  if (args.mode != Mode::kPaper) return;
  THRIFTY_CHECK(fits_planes(planes, d), "hyper_plan: planes: expected float32 (", d,
                ", 1 to 16), got ", dtype_name(planes.dtype), " ", shape_text(planes));
  args.planes = static_cast<const float*>(planes.data), args.bits = planes.size(1);
}

void check_seed_shape(const char* op, const Array& seed) {
  check_shape(op, "seed", seed, Dtype::kInt64, {2});
}

SeedPair check_seed(const char* op, const Array& seed) {
  check_seed_shape(op, seed);
  const auto* words = static_cast<const int64_t*>(seed.data);
  return {uint64_t(words[0]), uint64_t(words[1])};
}

Setup check_setup(const char* op, const Problem& p, const RecipeArgs& recipe, const Array& cu_q,
                  const Array& cu_k) {
  const PlanArgs args = check_recipe(op, recipe);
  const auto q = check_cuts(op, "cu_q", cu_q, p.nq, p.batch);
  const auto k = check_cuts(op, "cu_k", cu_k, p.nk, p.batch);
  THRIFTY_CHECK(q.size() == k.size(), op, ": cu_k: expected as many sequences as cu_q, ",
                q.size() - 1, ", got ", k.size() - 1);
  return {args, make_layout(q, k, recipe.causal, recipe.leaf)};
}

Plan check_plan(const Problem& p, const Layout& layout, const PlanArgs& args,
                const PlanArrays& arrays, bool on_device) {
  constexpr const char* op = "hyper_attention";
  const auto nodes = int64_t(layout.nodes.size());
  const bool means = args.mode == Mode::kMeans;
  check_shape(op, "order", arrays.order, Dtype::kInt32, {p.batch, p.k_heads, layout.k_total});
  check_shape(op, "offsets", arrays.offsets, Dtype::kInt32,
              {p.batch, p.k_heads, means ? nodes : 0, args.num_buckets + 1});
  check_shape(op, "q_window", arrays.q_window, Dtype::kInt32, {p.batch, p.q_heads, layout.q_total});
  check_shape(op, "samples", arrays.samples, Dtype::kInt32,
              {p.batch, p.k_heads, means ? 0 : nodes, args.residual});
  const auto part = [](const Array& a, int64_t at, int64_t n) {
    Array slice{.data = static_cast<int32_t*>(a.data) + at, .dtype = a.dtype, .ndim = 1};
    slice.shape[0] = n;
    return slice;
  };
  for (int64_t i = 0; i < nodes && !on_device; ++i) {
    const Node& n = layout.nodes[size_t(i)];
    const int64_t buckets = bucket_count(n.keys(), args.num_buckets);
    const int64_t windows = means ? buckets : (n.keys() + args.window - 1) / args.window;
    const int64_t sorted = n.keys() - (means ? std::min(args.keep, n.keys()) : 0);
    for (int64_t h = 0; h < p.batch * p.k_heads; ++h) {
      check_range(op, "order", part(arrays.order, h * layout.k_total + n.k_at, n.keys()), 0,
                  n.keys() - 1);
      if (means) {
        const Array offsets =
            part(arrays.offsets, (h * nodes + i) * (args.num_buckets + 1), buckets + 1);
        check_range(op, "offsets", offsets, 0, sorted);
        THRIFTY_CHECK(std::is_sorted(ints(offsets), ints(offsets) + buckets + 1), op,
                      ": offsets: expected numbers that do not decrease");
      } else {
        check_range(op, "samples",
                    part(arrays.samples, (h * nodes + i) * args.residual, args.residual), 0,
                    n.keys() - 1);
      }
    }
    for (int64_t h = 0; h < p.heads(); ++h) {
      check_range(op, "q_window", part(arrays.q_window, h * layout.q_total + n.q_at, n.queries()),
                  0, windows - 1);
    }
  }
  return {layout,
          args.mode,
          args.num_buckets,
          args.window,
          args.residual,
          args.keep,
          ints(arrays.order),
          ints(arrays.offsets),
          ints(arrays.q_window),
          ints(arrays.samples)};
}

void check_lsh_bucket(const Array& x, const Array& planes, const Array& mean) {
  constexpr const char* op = "lsh_bucket";
  THRIFTY_CHECK(x.ndim >= 2 && is_floating(x.dtype) && x.size(-1) >= 1, op,
                ": x: expected a floating (..., N, D), got ", dtype_name(x.dtype), " ",
                shape_text(x));
  THRIFTY_CHECK(fits_planes(planes, x.size(-1)), op, ": planes: expected float32 (", x.size(-1),
                ", 1 to 16), got ", dtype_name(planes.dtype), " ", shape_text(planes));
  check_mean(op, x, mean);
}

void check_centroid_bucket(const Array& x, const Array& centroids, const Array& mean) {
  constexpr const char* op = "centroid_bucket";
  const Array& c = centroids;
  THRIFTY_CHECK(x.ndim == 4 && is_floating(x.dtype) && x.size(-1) >= 1, op,
                ": x: expected a floating (B, H, N, D), got ", dtype_name(x.dtype), " ",
                shape_text(x));
  THRIFTY_CHECK(c.ndim == 4 && c.dtype == x.dtype && c.size(0) == x.size(0) && c.size(1) >= 1 &&
                    x.size(1) % c.size(1) == 0 && c.size(2) >= 1 && c.size(3) == x.size(3),
                op, ": centroids: expected the dtype of x and (", x.size(0),
                ", heads that divide x's, C, ", x.size(3), "), got ", dtype_name(c.dtype), " ",
                shape_text(c));
  check_mean(op, x, mean);
}

Hyper check_core(const CoreArgs& a, std::vector<int32_t>& q_window, bool on_device) {
  constexpr const char* op = "hyper_core";
  Hyper hyper{};
  Problem& p = hyper.problem = check_qkv(op, a.q, a.k, a.v, a.scale);
  THRIFTY_CHECK(a.windows.ndim == 4, op, ": windows: expected shape (B, Hkv, W, 2), got ",
                shape_text(a.windows));
  const int64_t count = a.windows.size(2);
  check_shape(op, "windows", a.windows, Dtype::kInt32, {p.batch, p.k_heads, count, 2});
  check_shape(op, "q_order", a.q_order, Dtype::kInt32, {p.batch, p.q_heads, p.nq});
  check_shape(op, "q_offsets", a.q_offsets, Dtype::kInt32, {p.batch, p.q_heads, count + 1});
  check_shape(op, "k_order", a.k_order, Dtype::kInt32, {p.batch, p.k_heads, p.nk});
  if (!on_device) {
    check_range(op, "q_order", a.q_order, 0, p.nq - 1);
    check_range(op, "k_order", a.k_order, 0, p.nk - 1);
    check_range(op, "q_offsets", a.q_offsets, 0, p.nq);
    check_range(op, "windows", a.windows, 0, p.nk);
  }
  if (a.list_k) {
    const int64_t entries = a.list_k.ndim == 4 ? a.list_k.size(2) : -1;
    check_shape(op, "list_k", a.list_k, p.dtype, {p.batch, p.k_heads, entries, p.d});
    check_shape(op, "list_v", a.list_v, p.dtype, {p.batch, p.k_heads, entries, p.dv});
    check_shape(op, "list_logw", a.list_logw, sums(p.dtype), {p.batch, p.k_heads, entries});
    if (a.list_range) {
      check_shape(op, "list_range", a.list_range, Dtype::kInt32, {p.batch, p.k_heads, entries, 2});
    }
    if (a.list_var) {
      check_shape(op, "list_var", a.list_var, sums(p.dtype), {p.batch, p.k_heads, entries});
    }
    hyper.given.list = {entries,          a.list_k.data,   a.list_v.data,
                        a.list_logw.data, a.list_var.data, ints(a.list_range)};
  }
  static constexpr int32_t kNone[2] = {0, 0};
  hyper.given.windows = count > 0 && a.windows.data != nullptr ? ints(a.windows) : kNone;
  hyper.given.window_count = count;
  hyper.plan.layout = make_layout({0, p.nq}, {0, p.nk}, false, 1);
  hyper.plan.order = ints(a.k_order);
  if (on_device) return hyper;
  q_window.assign(size_t(p.heads() * p.nq), int32_t(count));  // of no window
  for (int64_t h = 0; h < p.heads(); ++h) {
    const int32_t *order = ints(a.q_order) + h * p.nq,
                  *offsets = ints(a.q_offsets) + h * (count + 1);
    for (int64_t w = 0; w < count; ++w) {
      for (int64_t i = offsets[w]; i < offsets[w + 1]; ++i) {
        q_window[size_t(h * p.nq + order[i])] = int32_t(w);
      }
    }
  }
  hyper.plan.q_window = q_window.data();
  return hyper;
}

void check_grads(const char* op, const Problem& p, const Array& dout, const Array& dlse,
                 const Array& out, const Array& lse) {
  check_shape(op, "dout", dout, p.dtype, {p.batch, p.q_heads, p.nq, p.dv});
  check_shape(op, "out", out, p.dtype, {p.batch, p.q_heads, p.nq, p.dv});
  check_shape(op, "lse", lse, sums(p.dtype), {p.batch, p.q_heads, p.nq});
  if (dlse) check_shape(op, "dlse", dlse, sums(p.dtype), {p.batch, p.q_heads, p.nq});
}

}  // namespace thrifty::attention
