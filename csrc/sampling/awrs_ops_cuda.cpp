// torch.ops.thrifty.*: adaptive weighted rejection sampling and resampling on CUDA.
#include "sampling/awrs_cuda.h"
#include "sampling/awrs_ops.h"
#include "torch/edge_cuda.h"

namespace thrifty::sampling::ops {
namespace {

struct Cuda : edge::CudaTensors {
  static void sample_candidates(const SampleCandidates& op, const Tensor& like,
                                const SampleCandidatesOut& out) {
    edge::run_on(like, cuda::sample_candidates_scratch(op),
                 [&](void* scratch, cudaStream_t stream) {
                   return cuda::sample_candidates(op, out, scratch, stream);
                 });
  }
  static void awrs_coins(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                         const Tensor& like, double* coins) {
    const edge::CudaScope scope(like);
    edge::check_launch(cuda::awrs_coins(seeds, offsets, rows, k, coins, scope.stream));
  }
  static void awrs_weights(const AwrsWeights& op, const Tensor& like, const AwrsWeightsOut& out) {
    const edge::CudaScope scope(like);
    edge::check_launch(cuda::awrs_weights(op, out, scope.stream));
  }
  static void awrs_sample_dfa(const AwrsSampleDfa& op, const Tensor& like,
                              const AwrsSampleDfaOut& out) {
    edge::run_on(like, cuda::awrs_sample_dfa_scratch(op), [&](void* scratch, cudaStream_t stream) {
      return cuda::awrs_sample_dfa(op, out, scratch, stream);
    });
  }
  static void smc_resample(const SmcResample& op, const Tensor& like, const SmcResampleOut& out) {
    edge::run_on(like, cuda::smc_resample_scratch(op), [&](void* scratch, cudaStream_t stream) {
      return cuda::smc_resample(op, out, scratch, stream);
    });
  }
};

}  // namespace
}  // namespace thrifty::sampling::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  THRIFTY_IMPL_AWRS_OPS(m, thrifty::sampling::ops::Cuda);
}
