// torch.ops.thrifty.*: the layers of the ensemble family on CUDA. A network of them is composed in
// Python (python/thrifty/ensemble.py).
#include "ensemble/layer_ops.h"
#include "ensemble/linear_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::ensemble::ops {
namespace {

struct Cuda {
  static void check(const std::string& op, const char* name, const Tensor& tensor,
                    const Tensor& x) {
    edge::check_device(op, name, tensor, "x", x);
  }
  static void check(const std::string& op, const Layer& layer) { cuda::check_counts(op, layer); }

  static void fwd(const Layer& layer, const Tensor& x, void* out, void* z) {
    const edge::CudaScope scope(x);
    edge::check_launch(cuda::linear_fwd(layer, out, z, scope.stream));
  }

  static void bwd(const Layer& layer, const Tensor& x, const void* grad, const void* z,
                  const LayerGrads& grads) {
    edge::run_on(x, cuda::linear_bwd_scratch(layer, grads),
                 [&](void* scratch, cudaStream_t stream) {
                   return cuda::linear_bwd(layer, grad, z, grads, scratch, stream);
                 });
  }
};

}  // namespace
}  // namespace thrifty::ensemble::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  THRIFTY_IMPL_LAYER_OPS(m, thrifty::ensemble::ops::Cuda);
}
