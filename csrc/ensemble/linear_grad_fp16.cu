// The products of a layer's backward with fp16 operands: linear_grad.cuh on tensor cores.
#include "core/half_product.cuh"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {

cudaError_t launch_dx_fp16(const GradArgs& args, bool packed, bool small, cudaStream_t stream) {
  if (args.r.data != nullptr) {
    return launch_linear_grad<HalfTwofold<fp16, true, false>, true>(args, stream);
  }
  if (packed) return launch_linear_grad<HalfLarge<fp16, true, true>, false>(args, stream);
  return small ? launch_linear_grad<HalfSmall<fp16, true, false>, false>(args, stream)
               : launch_linear_grad<HalfLarge<fp16, true, false>, false>(args, stream);
}

cudaError_t launch_dw_fp16(const GradArgs& args, cudaStream_t stream) {
  return args.r.data != nullptr
             ? launch_linear_grad<HalfTwofold<fp16, false, false>, true>(args, stream)
             : launch_linear_grad<HalfLarge<fp16, false, false>, false>(args, stream);
}

}  // namespace thrifty::ensemble::cuda
