// torch.ops.thrifty.*: HyperAttention on the CPU.
#include <cstring>
#include <tuple>

#include "attention/bucket.h"
#include "attention/check.h"
#include "torch/edge.h"

namespace thrifty::attention::ops {
namespace {

using edge::OptionalTensor;
using edge::Tensor;
using torch::headeronly::ScalarType;

Tensor integers(const Tensor& like, std::vector<int64_t> shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Int);
}

Tensor sums(const Tensor& like, std::vector<int64_t> shape) {
  const bool wide = edge::dtype_of(like) == Dtype::kFloat64;
  return torch::stable::new_empty(like, shape, wide ? ScalarType::Double : ScalarType::Float);
}

int32_t* ints(const Tensor& tensor) { return static_cast<int32_t*>(edge::data(tensor)); }
std::byte* bytes(const Tensor& tensor) { return static_cast<std::byte*>(edge::data(tensor)); }

std::vector<int64_t> leading(const Array& a, int dims) {
  return {a.shape.begin(), a.shape.begin() + dims};
}

// ---- buckets

Tensor lsh_bucket(const Tensor& x_, const Tensor& planes_, const OptionalTensor& mean_) {
  const Tensor x = edge::dense(x_), planes = edge::dense(planes_);
  const OptionalTensor mean = edge::dense(mean_);
  const Array a = edge::array(x), p = edge::array(planes), m = edge::array(mean);
  check_lsh(a, p, m);
  const Tensor ids = integers(x, leading(a, a.ndim - 1));
  const int64_t d = a.size(-1), n = a.size(-2), slices = n > 0 ? ids.numel() / n : 0;
  const Directions directions(static_cast<const float*>(p.data), p.size(1), d, true);
  for_each(edge::torch_threads, slices, [&](int64_t i) {
    std::vector<float> centre(static_cast<size_t>(d));
    if (m) {
      to_float(m.dtype, d, bytes(*mean) + i * d * dtype_size(m.dtype), centre.data());
    }
    const Rows rows{bytes(x) + i * n * d * dtype_size(a.dtype), d};
    directions.signs(a.dtype, rows, n, m ? centre.data() : nullptr, ints(ids) + i * n);
  });
  return ids;
}

Tensor centroid_bucket(const Tensor& x_, const Tensor& centroids_, const OptionalTensor& mean_) {
  const Tensor x = edge::dense(x_), centroids = edge::dense(centroids_);
  const OptionalTensor mean = edge::dense(mean_);
  const Array a = edge::array(x), c = edge::array(centroids), m = edge::array(mean);
  check_centroids(a, c, m);
  const Tensor ids = integers(x, leading(a, 3));
  const int64_t d = a.size(3), n = a.size(2), heads = a.size(1), group = heads / c.size(1);
  for_each(edge::torch_threads, a.size(0) * heads, [&](int64_t i) {
    std::vector<float> centre(static_cast<size_t>(d)), points(size_t(c.size(2) * d));
    const int64_t from = i / heads * c.size(1) + i % heads / group;
    to_float(c.dtype, c.size(2) * d, bytes(centroids) + from * c.size(2) * d * dtype_size(c.dtype),
             points.data());
    if (m) {
      to_float(m.dtype, d, bytes(*mean) + i * d * dtype_size(m.dtype), centre.data());
    }
    Directions(points.data(), c.size(2), d)
        .nearest(a.dtype, {bytes(x) + i * n * d * dtype_size(a.dtype), d}, n,
                 m ? centre.data() : nullptr, ints(ids) + i * n);
  });
  return ids;
}

// ---- hyper_core

struct CoreTensors {
  Tensor q, k, v, q_order, q_offsets, k_order, windows;
  OptionalTensor list_k, list_v, list_logw, list_range, list_var;
  std::vector<int32_t> q_window;
  Hyper hyper;

  CoreTensors(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& q_order_,
              const Tensor& q_offsets_, const Tensor& k_order_, const Tensor& windows_,
              const OptionalTensor& list_k_, const OptionalTensor& list_v_,
              const OptionalTensor& list_logw_, const OptionalTensor& list_range_,
              const OptionalTensor& list_var_, double scale)
      : q(edge::dense_rows(q_)),
        k(edge::dense_rows(k_)),
        v(edge::dense_rows(v_)),
        q_order(edge::dense(q_order_)),
        q_offsets(edge::dense(q_offsets_)),
        k_order(edge::dense(k_order_)),
        windows(edge::dense(windows_)),
        list_k(edge::dense(list_k_)),
        list_v(edge::dense(list_v_)),
        list_logw(edge::dense(list_logw_)),
        list_range(edge::dense(list_range_)),
        list_var(edge::dense(list_var_)),
        hyper(check_core({edge::array(q), edge::array(k), edge::array(v), edge::array(q_order),
                          edge::array(q_offsets), edge::array(k_order), edge::array(windows),
                          edge::array(list_k), edge::array(list_v), edge::array(list_logw),
                          edge::array(list_range), edge::array(list_var), scale},
                         q_window)) {}
};

std::tuple<Tensor, Tensor> hyper_core_fwd(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_order,
    const Tensor& q_offsets, const Tensor& k_order, const Tensor& windows,
    const OptionalTensor& list_k, const OptionalTensor& list_v, const OptionalTensor& list_logw,
    const OptionalTensor& list_range, const OptionalTensor& list_var, double scale) {
  const CoreTensors in(q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw,
                       list_range, list_var, scale);
  const Problem& p = in.hyper.problem;
  const Tensor out = edge::empty(q, {p.batch, p.q_heads, p.nq, p.dv});
  const Tensor lse = sums(q, {p.batch, p.q_heads, p.nq});
  hyper_fwd(in.hyper, bytes(out), bytes(lse), edge::torch_threads);
  return {out, lse};
}

using CoreGrads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Gradients of the list are sums, absent ones without elements.
CoreGrads hyper_core_bwd(const Tensor& dout_, const OptionalTensor& dlse_, const Tensor& q,
                         const Tensor& k, const Tensor& v, const Tensor& q_order,
                         const Tensor& q_offsets, const Tensor& k_order, const Tensor& windows,
                         const OptionalTensor& list_k, const OptionalTensor& list_v,
                         const OptionalTensor& list_logw, const OptionalTensor& list_range,
                         const OptionalTensor& list_var, const Tensor& out_, const Tensor& lse_,
                         double scale) {
  const CoreTensors in(q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw,
                       list_range, list_var, scale);
  const Problem& p = in.hyper.problem;
  const Tensor dout = edge::dense_rows(dout_), out = edge::dense(out_), lse = edge::dense(lse_);
  const OptionalTensor dlse = edge::dense(dlse_);
  check_grads("hyper_core", p, edge::array(dout), edge::array(dlse), edge::array(out),
              edge::array(lse));
  const Tensor dq = edge::empty(q, {p.batch, p.q_heads, p.nq, p.d});
  const Tensor dk = edge::empty(k, {p.batch, p.k_heads, p.nk, p.d});
  const Tensor dv = edge::empty(v, {p.batch, p.k_heads, p.nk, p.dv});
  const int64_t entries = in.hyper.given.list.count;
  const auto list = [&](std::vector<int64_t> shape, bool wanted) {
    if (!wanted) shape = {0};
    const Tensor grad = sums(q, shape);
    if (grad.numel() > 0) {
      std::memset(edge::data(grad), 0, size_t(grad.numel() * dtype_size(edge::dtype_of(grad))));
    }
    return grad;
  };
  const bool listed = list_k.has_value();
  const Tensor dlist_k = list({p.batch, p.k_heads, entries, p.d}, listed);
  const Tensor dlist_v = list({p.batch, p.k_heads, entries, p.dv}, listed);
  const Tensor dlogw = list({p.batch, p.k_heads, entries}, listed);
  // Without var it is summed too, for nobody: kernels know one kind of list.
  const Tensor dvar = list({p.batch, p.k_heads, entries}, listed);
  hyper_bwd(in.hyper,
            {heads_of(edge::array(dout)),
             dlse ? bytes(*dlse) : nullptr,
             bytes(out),
             bytes(lse),
             bytes(dq),
             bytes(dk),
             bytes(dv),
             {bytes(dlist_k), bytes(dlist_v), bytes(dlogw), bytes(dvar)}},
            edge::torch_threads);
  return {dq, dk, dv, dlist_k, dlist_v, dlogw, dvar};
}

// ---- hyper_attention

// Sequences and recipe, checked.
struct Setup {
  PlanArgs args;
  Layout layout;

  Setup(const char* op, const Problem& p, const RecipeArgs& recipe, const OptionalTensor& cu_q_,
        const OptionalTensor& cu_k_)
      : args(check_recipe(op, recipe)) {
    const OptionalTensor cu_q = edge::dense(cu_q_), cu_k = edge::dense(cu_k_);
    layout = check_layout(op, p, args, edge::array(cu_q), edge::array(cu_k));
  }
};

std::tuple<Tensor, Tensor, Tensor, Tensor> plan(const Tensor& q_, const Tensor& k_,
                                                const OptionalTensor& planes_,
                                                const OptionalTensor& cu_q,
                                                const OptionalTensor& cu_k, const std::string& mode,
                                                bool causal, bool center, int64_t num_buckets,
                                                int64_t window, int64_t residual, int64_t keep,
                                                int64_t leaf, const Tensor& seed_) {
  constexpr const char* op = "hyper_attention";
  const Tensor q = edge::dense_rows(q_), k = edge::dense_rows(k_), seed = edge::dense(seed_);
  const OptionalTensor planes = edge::dense(planes_);
  const Array key = edge::array(k);
  const Problem p = check_qkv(op, edge::array(q), key, key, 1);
  Setup setup(op, p, {mode, causal, center, num_buckets, window, residual, keep, leaf}, cu_q, cu_k);
  check_planes(edge::array(planes), p.d, setup.args);
  check_seed(edge::array(seed), setup.args);
  const Layout& layout = setup.layout;
  const auto nodes = int64_t(layout.nodes.size());
  const bool means = setup.args.mode == Mode::kMeans;
  const Tensor order = integers(q, {p.batch, p.k_heads, layout.k_total});
  const Tensor offsets = integers(q, {p.batch, p.k_heads, means ? nodes : 0, num_buckets + 1});
  const Tensor q_window = integers(q, {p.batch, p.q_heads, layout.q_total});
  const Tensor samples = integers(q, {p.batch, p.k_heads, means ? 0 : nodes, residual});
  hyper_plan(p, layout, setup.args, {ints(order), ints(offsets), ints(q_window), ints(samples)},
             edge::torch_threads);
  return {order, offsets, q_window, samples};
}

struct AttentionTensors {
  Tensor q, k, v, order, offsets, q_window, samples;
  Hyper hyper;

  AttentionTensors(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& order_,
                   const Tensor& offsets_, const Tensor& q_window_, const Tensor& samples_,
                   const OptionalTensor& cu_q, const OptionalTensor& cu_k, double scale,
                   const RecipeArgs& recipe)
      : q(edge::dense_rows(q_)),
        k(edge::dense_rows(k_)),
        v(edge::dense_rows(v_)),
        order(edge::dense(order_)),
        offsets(edge::dense(offsets_)),
        q_window(edge::dense(q_window_)),
        samples(edge::dense(samples_)) {
    constexpr const char* op = "hyper_attention";
    hyper.problem = check_qkv(op, edge::array(q), edge::array(k), edge::array(v), scale);
    const Setup setup(op, hyper.problem, recipe, cu_q, cu_k);
    hyper.plan = check_plan(
        hyper.problem, setup.layout, setup.args,
        {edge::array(order), edge::array(offsets), edge::array(q_window), edge::array(samples)});
  }
};

std::tuple<Tensor, Tensor> fwd(const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& order, const Tensor& offsets, const Tensor& q_window,
                               const Tensor& samples, const OptionalTensor& cu_q,
                               const OptionalTensor& cu_k, const std::string& mode, bool causal,
                               int64_t num_buckets, int64_t window, int64_t residual, int64_t keep,
                               int64_t leaf, double scale) {
  const AttentionTensors in(q, k, v, order, offsets, q_window, samples, cu_q, cu_k, scale,
                            {mode, causal, true, num_buckets, window, residual, keep, leaf});
  const Problem& p = in.hyper.problem;
  const Tensor out = edge::empty(q, {p.batch, p.q_heads, p.nq, p.dv});
  const Tensor lse = sums(q, {p.batch, p.q_heads, p.nq});
  hyper_fwd(in.hyper, bytes(out), bytes(lse), edge::torch_threads);
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> bwd(const Tensor& dout_, const OptionalTensor& dlse_,
                                       const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& out_, const Tensor& lse_, const Tensor& order,
                                       const Tensor& offsets, const Tensor& q_window,
                                       const Tensor& samples, const OptionalTensor& cu_q,
                                       const OptionalTensor& cu_k, const std::string& mode,
                                       bool causal, int64_t num_buckets, int64_t window,
                                       int64_t residual, int64_t keep, int64_t leaf, double scale) {
  const AttentionTensors in(q, k, v, order, offsets, q_window, samples, cu_q, cu_k, scale,
                            {mode, causal, true, num_buckets, window, residual, keep, leaf});
  const Problem& p = in.hyper.problem;
  const Tensor dout = edge::dense_rows(dout_), out = edge::dense(out_), lse = edge::dense(lse_);
  const OptionalTensor dlse = edge::dense(dlse_);
  check_grads("hyper_attention", p, edge::array(dout), edge::array(dlse), edge::array(out),
              edge::array(lse));
  const Tensor dq = edge::empty(q, {p.batch, p.q_heads, p.nq, p.d});
  const Tensor dk = edge::empty(k, {p.batch, p.k_heads, p.nk, p.d});
  const Tensor dv = edge::empty(v, {p.batch, p.k_heads, p.nk, p.dv});
  hyper_bwd(in.hyper,
            {heads_of(edge::array(dout)),
             dlse ? bytes(*dlse) : nullptr,
             bytes(out),
             bytes(lse),
             bytes(dq),
             bytes(dk),
             bytes(dv),
             {}},
            edge::torch_threads);
  return {dq, dk, dv};
}

}  // namespace
}  // namespace thrifty::attention::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  // x [..., N, D], planes [D, R] float32, mean [..., D] -> int32 [..., N]
  m.def("lsh_bucket(Tensor x, Tensor planes, Tensor? mean) -> Tensor");
  // x [B, H, N, D], centroids [B, H / group, C, D], mean [B, H, D] -> int32 [B, H, N]
  m.def("centroid_bucket(Tensor x, Tensor centroids, Tensor? mean) -> Tensor");
  // Item w has queries q_order[q_offsets[w] : q_offsets[w + 1]], which read the sorted keys
  // [windows[w, 0], windows[w, 1]). list_logw and list_var have the dtype of sums, list_range is
  // int32.
  m.def(
      "hyper_core_fwd(Tensor q, Tensor k, Tensor v, Tensor q_order, Tensor q_offsets, "
      "Tensor k_order, Tensor windows, Tensor? list_k, Tensor? list_v, Tensor? list_logw, "
      "Tensor? list_range, Tensor? list_var, float scale) -> (Tensor out, Tensor lse)");
  // mode: "means" or "paper". cu_q, cu_k: int64, for B = 1. Nodes: attention/layout.h; what a plan
  // holds: attention/plan.h
  m.def(
      "hyper_plan(Tensor q, Tensor k, Tensor? planes, Tensor? cu_q, Tensor? cu_k, str mode, "
      "bool causal, bool center, int num_buckets, int window, int residual, int keep, int leaf, "
      "Tensor seed) -> (Tensor order, Tensor offsets, Tensor q_window, Tensor samples)");
  m.def(
      "hyper_attention_fwd(Tensor q, Tensor k, Tensor v, Tensor order, Tensor offsets, "
      "Tensor q_window, Tensor samples, Tensor? cu_q, Tensor? cu_k, str mode, bool causal, "
      "int num_buckets, int window, int residual, int keep, int leaf, float scale) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "hyper_core_bwd(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor q_order, "
      "Tensor q_offsets, Tensor k_order, Tensor windows, Tensor? list_k, Tensor? list_v, "
      "Tensor? list_logw, Tensor? list_range, Tensor? list_var, Tensor out, Tensor lse, "
      "float scale) -> (Tensor dq, Tensor dk, Tensor dv, Tensor dlist_k, Tensor dlist_v, "
      "Tensor dlist_logw, Tensor dlist_var)");
  m.def(
      "hyper_attention_bwd(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, "
      "Tensor lse, Tensor order, Tensor offsets, Tensor q_window, Tensor samples, Tensor? cu_q, "
      "Tensor? cu_k, str mode, bool causal, int num_buckets, int window, int residual, int keep, "
      "int leaf, float scale) -> (Tensor dq, Tensor dk, Tensor dv)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  m.impl("lsh_bucket", TORCH_BOX(&thrifty::attention::ops::lsh_bucket));
  m.impl("centroid_bucket", TORCH_BOX(&thrifty::attention::ops::centroid_bucket));
  m.impl("hyper_core_fwd", TORCH_BOX(&thrifty::attention::ops::hyper_core_fwd));
  m.impl("hyper_core_bwd", TORCH_BOX(&thrifty::attention::ops::hyper_core_bwd));
  m.impl("hyper_attention_bwd", TORCH_BOX(&thrifty::attention::ops::bwd));
  m.impl("hyper_plan", TORCH_BOX(&thrifty::attention::ops::plan));
  m.impl("hyper_attention_fwd", TORCH_BOX(&thrifty::attention::ops::fwd));
}
