// torch.ops.thrifty.*: tokens that leave their sequences and come back, on CUDA.
#include "moe/token_ops.h"
#include "moe/token_rows_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::moe::ops {
namespace {

struct Cuda : edge::CudaTensors {
  static void topk(const TokenTopk& topk, const Tensor& like, void* weights, int64_t* index) {
    const edge::CudaScope scope(like);
    edge::check_launch(cuda::token_topk(topk, weights, index, scope.stream));
  }
  static void gather(const TokenRowsOp& op, const Tensor& like, void* out) {
    const edge::CudaScope scope(like);
    edge::check_launch(cuda::gather_rows(op, out, scope.stream));
  }
  static void scatter(const TokenRowsOp& op, const Tensor& like, void* out) {
    edge::run_on(like, cuda::scatter_add_rows_scratch(op), [&](void* scratch, cudaStream_t stream) {
      return cuda::scatter_add_rows(op, out, scratch, stream);
    });
  }
};

}  // namespace
}  // namespace thrifty::moe::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) { THRIFTY_IMPL_TOKEN_OPS(m, thrifty::moe::ops::Cuda); }
