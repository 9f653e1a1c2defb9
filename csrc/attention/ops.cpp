// torch.ops.thrifty.*: HyperAttention on the CPU.
#include <cstring>

#include "attention/attention_ops.h"
#include "attention/bucket.h"

namespace thrifty::attention::ops {
namespace {

struct Cpu : edge::CpuTensors {
  static constexpr bool kOnDevice = false;
  static OptionalTensor cuts(const char*, const char*, const OptionalTensor& cu) {
    return edge::dense(cu);
  }
  static void fwd(const Hyper& hyper, const CoreQueries&, const Tensor&, std::byte* out,
                  std::byte* lse) {
    hyper_fwd(hyper, out, lse, edge::torch_threads);
  }
  static void bwd(const Hyper& hyper, const CoreQueries&, const Tensor&,
                  const BackwardArgs& grads) {
    hyper_bwd(hyper, grads, edge::torch_threads);
  }
  static void clear(const Tensor& sums) {
    if (sums.numel() == 0) return;
    std::memset(edge::data(sums), 0, size_t(sums.numel() * dtype_size(edge::dtype_of(sums))));
  }
};

std::vector<int64_t> leading(const Array& a, int dims) {
  return {a.shape.begin(), a.shape.begin() + dims};
}

// ---- buckets

Tensor lsh_bucket(const Tensor& x_, const Tensor& planes_, const OptionalTensor& mean_) {
  const Tensor x = edge::dense(x_), planes = edge::dense(planes_);
  const OptionalTensor mean = edge::dense(mean_);
  const Array a = edge::array(x), p = edge::array(planes), m = edge::array(mean);
  check_lsh_bucket(a, p, m);
  const Tensor ids = integers(x, leading(a, a.ndim - 1));
  attention::lsh_bucket(a, p, m, ints(ids), edge::torch_threads);
  return ids;
}

Tensor centroid_bucket(const Tensor& x_, const Tensor& centroids_, const OptionalTensor& mean_) {
  const Tensor x = edge::dense(x_), centroids = edge::dense(centroids_);
  const OptionalTensor mean = edge::dense(mean_);
  const Array a = edge::array(x), c = edge::array(centroids), m = edge::array(mean);
  check_centroid_bucket(a, c, m);
  const Tensor ids = integers(x, leading(a, 3));
  attention::centroid_bucket(a, c, m, ints(ids), edge::torch_threads);
  return ids;
}

Tensor lsh_planes(const Tensor& seed_, int64_t dim, int64_t planes) {
  constexpr const char* op = "hyper_attention";
  const Tensor seed = edge::dense(seed_);
  const SeedPair pair = check_seed(op, edge::array(seed));
  THRIFTY_CHECK(dim >= 1 && dim <= 256 && planes >= 1 && planes <= 16, op,
                ": planes: expected 1 to 16, of 1 to 256 dimensions, got ", planes, " of ", dim);
  const Tensor normals = torch::stable::new_empty(seed, {dim, planes}, ScalarType::Float);
  attention::lsh_planes(pair.seed, pair.offset, dim, planes,
                        static_cast<float*>(edge::data(normals)));
  return normals;
}

Setup setup_of(const char* op, const Problem& p, const RecipeArgs& recipe,
               const OptionalTensor& cu_q_, const OptionalTensor& cu_k_) {
  const OptionalTensor cu_q = edge::dense(cu_q_), cu_k = edge::dense(cu_k_);
  return check_setup(op, p, recipe, edge::array(cu_q), edge::array(cu_k));
}

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
  Setup setup = setup_of(op, p, {mode, causal, center, num_buckets, window, residual, keep, leaf},
                         cu_q, cu_k);
  check_planes(edge::array(planes), p.d, setup.args);
  const SeedPair pair = check_seed(op, edge::array(seed));
  setup.args.seed = pair.seed, setup.args.offset = pair.offset;
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

}  // namespace
}  // namespace thrifty::attention::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  // x [..., N, D], planes [D, R] float32, mean [..., D] -> int32 [..., N]
  m.def("lsh_bucket(Tensor x, Tensor planes, Tensor? mean) -> Tensor");
  // x [B, H, N, D], centroids [B, H / group, C, D], mean [B, H, D] -> int32 [B, H, N]
  m.def("centroid_bucket(Tensor x, Tensor centroids, Tensor? mean) -> Tensor");
  // Normals of hyperplanes, float32 [dim, planes], from int64 (seed, offset).
  m.def("lsh_planes(Tensor seed, int dim, int planes) -> Tensor");
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
  m.impl("lsh_planes", TORCH_BOX(&thrifty::attention::ops::lsh_planes));
  m.impl("hyper_plan", TORCH_BOX(&thrifty::attention::ops::plan));
  THRIFTY_IMPL_ATTENTION_OPS(m, thrifty::attention::ops::Cpu);
}
