// torch.ops.thrifty.*: routing, permutation and experts on CUDA.
#include "core/bucket_sort_cuda.h"
#include "moe/grouped_mm_cuda.h"
#include "moe/mlp_cuda.h"
#include "moe/moe_ops.h"
#include "moe/permute_cuda.h"
#include "moe/route_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::moe::ops {
namespace {

struct Cuda : edge::CudaTensors {
  using edge::CudaTensors::check;
  static constexpr bool kOnDevice = true;
  static void check(const Route& route) { cuda::check_route(route); }
  static void check(const GroupedMm& product) { cuda::check_grouped(product); }
  static void check(const Mlp& mlp) { cuda::check_mlp(mlp); }
  static void check_chosen(const Route&, const int32_t*, int64_t) {}
  // Columns of a are what the kernel walks along.
  static Tensor depth_lines(const Tensor& a) {
    if (a.dim() != 2 || a.stride(0) == 1 || a.size(0) <= 1) return a;
    const Tensor columns = edge::dense(torch::stable::transpose(a, 0, 1));
    return torch::stable::transpose(columns, 0, 1);
  }

  static void bucket_sort(const Array& ids, const Tensor& like, int64_t rows, int64_t n,
                          int64_t buckets, int32_t* order, int32_t* offsets) {
    const thrifty::cuda::BucketSort sort{.ids = ids.data,
                                         .dtype = ids.dtype,
                                         .rows = rows,
                                         .n = n,
                                         .buckets = buckets,
                                         .order = order,
                                         .offsets = offsets};
    edge::run_on(like, bucket_sort_scratch(sort), [&](void* scratch, cudaStream_t stream) {
      return thrifty::cuda::bucket_sort(sort, scratch, stream);
    });
  }
  static void route_fwd(const Route& route, const Tensor& like, void* weights, int32_t* ids,
                        void* score_sum, int32_t* count) {
    const bool stats = score_sum != nullptr;
    edge::run_on(
        like, cuda::moe_route_scratch(route, stats), [&](void* scratch, cudaStream_t stream) {
          return cuda::moe_route_fwd(route, weights, ids, score_sum, count, scratch, stream);
        });
  }
  static void route_bwd(const Route& route, const Tensor& like, const void* grad,
                        const int32_t* ids, void* dlogits) {
    const edge::CudaScope scope(like);
    edge::check_launch(cuda::moe_route_bwd(route, grad, ids, dlogits, scope.stream));
  }
  static void permute(const Permute& permute, const Tensor& like, int32_t* slot, int32_t* offsets,
                      int32_t* inverse) {
    edge::run_on(like, cuda::moe_permute_scratch(permute), [&](void* scratch, cudaStream_t stream) {
      return cuda::moe_permute(permute, slot, offsets, inverse, scratch, stream);
    });
  }
  static void grouped_mm(const GroupedMm& product, const Tensor& like, void* out) {
    const edge::CudaScope scope(like);
    edge::check_launch(cuda::grouped_mm(product, out, scope.stream));
  }
  static void mlp_fwd(const Mlp& mlp, const Tensor& like, void* out, void* z) {
    edge::run_on(like, cuda::moe_mlp_fwd_scratch(mlp), [&](void* scratch, cudaStream_t stream) {
      return cuda::moe_mlp_fwd(mlp, out, z, scratch, stream);
    });
  }
  static void mlp_bwd(const Mlp& mlp, const Tensor& like, const void* grad, const void* z,
                      const MlpGrads& grads) {
    edge::run_on(like, cuda::moe_mlp_bwd_scratch(mlp, z != nullptr, grads),
                 [&](void* scratch, cudaStream_t stream) {
                   return cuda::moe_mlp_bwd(mlp, grad, z, grads, scratch, stream);
                 });
  }
};

}  // namespace
}  // namespace thrifty::moe::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) { THRIFTY_IMPL_MOE_OPS(m, thrifty::moe::ops::Cuda); }
