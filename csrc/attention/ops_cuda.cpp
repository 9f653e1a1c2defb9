// torch.ops.thrifty.*: HyperAttention on CUDA.
#include "attention/attention_ops.h"
#include "attention/hyper_cuda.h"
#include "attention/plan_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::attention::ops {
namespace {

struct Cuda : edge::CudaTensors {
  static constexpr bool kOnDevice = true;
  // Layouts are made on the host: best cu lies there, then nothing waits. One on CUDA is copied,
  // which waits for the stream, and so refused while a CUDA graph is captured.
  static OptionalTensor cuts(const char* op, const char* name, const OptionalTensor& cu) {
    if (!cu || !cu->is_cuda()) return edge::dense(cu);
    const edge::CudaScope scope(*cu);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(scope.stream, &capture);
    edge::check_launch({error, "of the stream's capture"});
    THRIFTY_CHECK(capture == cudaStreamCaptureStatusNone, op, ": ", name,
                  ": expected a CPU tensor while a CUDA graph is captured, got one on ",
                  edge::device_text(*cu));
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    return edge::dense(torch::stable::to(*cu, cpu));
  }
  static void fwd(const Hyper& hyper, const CoreQueries& queries, const Tensor& like,
                  std::byte* out, std::byte* lse) {
    const cuda::HyperCall call{hyper, queries.order, queries.offsets};
    edge::run_on(like, cuda::hyper_fwd_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::hyper_fwd(call, out, lse, scratch, stream);
    });
  }
  static void bwd(const Hyper& hyper, const CoreQueries& queries, const Tensor& like,
                  const BackwardArgs& grads) {
    const cuda::HyperCall call{hyper, queries.order, queries.offsets};
    edge::run_on(like, cuda::hyper_bwd_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::hyper_bwd(call, grads, scratch, stream);
    });
  }
  static void clear(const Tensor&) {}  // its gradients are written
};
using OnDevice = edge::SameDevice<Cuda>;

// Keys are chosen in float32, whatever the tensors hold, as on the CPU.
Tensor narrow(const Tensor& x) {
  return edge::dtype_of(x) == Dtype::kFloat64 ? torch::stable::to(x, ScalarType::Float) : x;
}
OptionalTensor narrow(const OptionalTensor& x) {
  return x ? OptionalTensor(narrow(*x)) : std::nullopt;
}

Tensor lsh_bucket(const Tensor& x_, const Tensor& planes_, const OptionalTensor& mean_) {
  constexpr const char* op = "lsh_bucket";
  OnDevice(op, "x", x_)("planes", planes_)("mean", mean_);
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
  OnDevice(op, "x", x_)("centroids", centroids_)("mean", mean_);
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
  OnDevice(op, "q", q_)("k", k_)("planes", planes_);
  if (!seed_.is_cpu()) OnDevice(op, "q", q_)("seed", seed_);
  check_qkv(op, edge::array(q_), edge::array(k_), edge::array(k_), 1);
  const Tensor q = edge::dense_rows(narrow(q_)), k = edge::dense_rows(narrow(k_));
  const Tensor seed = edge::dense(seed_);
  const OptionalTensor planes = edge::dense(planes_);
  const Array key = edge::array(k);
  const Problem p = check_qkv(op, edge::array(q), key, key, 1);
  const OptionalTensor cu_q = Cuda::cuts(op, "cu_q", cu_q_), cu_k = Cuda::cuts(op, "cu_k", cu_k_);
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
  THRIFTY_IMPL_ATTENTION_OPS(m, thrifty::attention::ops::Cuda);
}
