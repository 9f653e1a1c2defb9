// torch.ops.thrifty.*: masks, filters and draws on CUDA.
#include "sampling/mask_ops.h"
#include "sampling/sampling_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::sampling::ops {
namespace {

struct Cuda : edge::CudaTensors {
  static void apply_token_bitmask(const ApplyBitmask& op, const Tensor& logits) {
    const edge::CudaScope scope(logits);
    edge::check_launch(cuda::apply_token_bitmask(op, scope.stream));
  }
  static void masked_sample(const MaskedSample& op, const Tensor& like,
                            const MaskedSampleOut& out) {
    edge::run_on(like, cuda::masked_sample_scratch(op), [&](void* scratch, cudaStream_t stream) {
      return cuda::masked_sample(op, out, scratch, stream);
    });
  }
  static void filter_threshold(const FilterThreshold& op, const Tensor& like,
                               const FilterThresholdOut& out) {
    edge::run_on(like, cuda::filter_threshold_scratch(op), [&](void* scratch, cudaStream_t stream) {
      return cuda::filter_threshold(op, out, scratch, stream);
    });
  }
};

}  // namespace
}  // namespace thrifty::sampling::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  THRIFTY_IMPL_MASK_OPS(m, thrifty::sampling::ops::Cuda);
}
