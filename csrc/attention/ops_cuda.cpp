// torch.ops.thrifty.*: the choice of keys on CUDA. The ops that attend: core_ops_cuda.cpp.
#include "attention/check.h"
#include "attention/cuts_cuda.h"
#include "attention/plan_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::attention::ops {
namespace {

using edge::OptionalTensor;
using edge::Tensor;
using torch::headeronly::ScalarType;

struct Cuda {
  static void check(const char* op, const char* name, const Tensor& tensor, const char* first_name,
                    const Tensor& first) {
    edge::check_device(op, name, tensor, first_name, first);
  }
};
using SameDevice = edge::SameDevice<Cuda>;

Tensor integers(const Tensor& like, std::vector<int64_t> shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Int);
}

// Keys are chosen in float32, whatever the tensors hold, as on the CPU.
Tensor narrow(const Tensor& x) {
  return edge::dtype_of(x) == Dtype::kFloat64 ? torch::stable::to(x, ScalarType::Float) : x;
}
OptionalTensor narrow(const OptionalTensor& x) {
  return x ? OptionalTensor(narrow(*x)) : std::nullopt;
}

int32_t* ints(const Tensor& tensor) { return static_cast<int32_t*>(edge::data(tensor)); }

Tensor lsh_bucket(const Tensor& x_, const Tensor& planes_, const OptionalTensor& mean_) {
  constexpr const char* op = "lsh_bucket";
  SameDevice(op, "x", x_)("planes", planes_)("mean", mean_);
  check_lsh_bucket(edge::array(x_), edge::array(planes_), edge::array(mean_));
  const Tensor x = edge::dense(narrow(x_)), planes = edge::dense(planes_);
  const OptionalTensor mean = edge::dense(narrow(mean_));
  const Array a = edge::array(x), p = edge::array(planes), m = edge::array(mean);
  const Tensor ids =
      integers(x, std::vector<int64_t>(a.shape.begin(), a.shape.begin() + a.ndim - 1));
  const int64_t n = a.size(-2);
  if (ids.numel() == 0) return ids;
  const edge::CudaScope scope(x);
  edge::check_launch(cuda::lsh_bucket({a.dtype, a.data, static_cast<const float*>(p.data), m.data,
                                       ids.numel() / n, n, a.size(-1), p.size(1)},
                                      ints(ids), scope.stream));
  return ids;
}

Tensor centroid_bucket(const Tensor& x_, const Tensor& centroids_, const OptionalTensor& mean_) {
  constexpr const char* op = "centroid_bucket";
  SameDevice(op, "x", x_)("centroids", centroids_)("mean", mean_);
  check_centroid_bucket(edge::array(x_), edge::array(centroids_), edge::array(mean_));
  const Tensor x = edge::dense(narrow(x_)), centroids = edge::dense(narrow(centroids_));
  const OptionalTensor mean = edge::dense(narrow(mean_));
  const Array a = edge::array(x), c = edge::array(centroids), m = edge::array(mean);
  const Tensor ids = integers(x, {a.size(0), a.size(1), a.size(2)});
  if (ids.numel() == 0) return ids;
  const cuda::CentroidBucket call{a.dtype,
                                  a.data,
                                  c.data,
                                  m.data,
                                  a.size(0) * a.size(1),
                                  a.size(2),
                                  a.size(3),
                                  c.size(2),
                                  a.size(1) / c.size(1)};
  edge::run_on(x, cuda::centroid_bucket_scratch(call), [&](void* scratch, cudaStream_t stream) {
    return cuda::centroid_bucket(call, ints(ids), scratch, stream);
  });
  return ids;
}

// The seed's numbers, where they lie.
cuda::PlanSeed plan_seed(const char* op, const Tensor& seed) {
  const Array words = edge::array(seed);
  if (seed.is_cuda()) {
    check_seed_shape(op, words);
    return {static_cast<const int64_t*>(words.data), 0, 0};
  }
  const SeedPair pair = check_seed(op, words);
  return {nullptr, pair.seed, pair.offset};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> plan(
    const Tensor& q_, const Tensor& k_, const OptionalTensor& planes_, const OptionalTensor& cu_q_,
    const OptionalTensor& cu_k_, const std::string& mode, bool causal, bool center,
    int64_t num_buckets, int64_t window, int64_t residual, int64_t keep, int64_t leaf,
    const Tensor& seed_) {
  constexpr const char* op = "hyper_attention";
  SameDevice(op, "q", q_)("k", k_)("planes", planes_);
  if (!seed_.is_cpu()) SameDevice(op, "q", q_)("seed", seed_);
  check_qkv(op, edge::array(q_), edge::array(k_), edge::array(k_), 1);
  const Tensor q = edge::dense_rows(narrow(q_)), k = edge::dense_rows(narrow(k_));
  const Tensor seed = edge::dense(seed_);
  const OptionalTensor planes = edge::dense(planes_);
  const Array key = edge::array(k);
  const Problem p = check_qkv(op, edge::array(q), key, key, 1);
  const OptionalTensor cu_q = host_cuts(op, "cu_q", cu_q_), cu_k = host_cuts(op, "cu_k", cu_k_);
  auto [args, layout] =
      check_setup(op, p, {mode, causal, center, num_buckets, window, residual, keep, leaf},
                  edge::array(cu_q), edge::array(cu_k));
  check_planes(edge::array(planes), p.d, args);
  const cuda::PlanSeed words = plan_seed(op, seed);
  const auto nodes = int64_t(layout.nodes.size());
  const bool means = args.mode == Mode::kMeans;
  const Tensor order = integers(q, {p.batch, p.k_heads, layout.k_total});
  const Tensor offsets = integers(q, {p.batch, p.k_heads, means ? nodes : 0, num_buckets + 1});
  const Tensor q_window = integers(q, {p.batch, p.q_heads, layout.q_total});
  const Tensor samples = integers(q, {p.batch, p.k_heads, means ? 0 : nodes, residual});
  const PlanOutputs outputs{ints(order), ints(offsets), ints(q_window), ints(samples)};
  edge::run_on(q, cuda::hyper_plan_scratch(p, layout, args),
               [&](void* scratch, cudaStream_t stream) {
                 return cuda::hyper_plan(p, layout, args, words, outputs, scratch, stream);
               });
  return {order, offsets, q_window, samples};
}

}  // namespace
}  // namespace thrifty::attention::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  m.impl("lsh_bucket", TORCH_BOX(&thrifty::attention::ops::lsh_bucket));
  m.impl("centroid_bucket", TORCH_BOX(&thrifty::attention::ops::centroid_bucket));
  m.impl("hyper_plan", TORCH_BOX(&thrifty::attention::ops::plan));
}
