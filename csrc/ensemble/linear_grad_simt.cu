// The products of a layer's backward in float32 and float64: linear_grad.cuh on the ordinary
// arithmetic units.
#include "core/simt_product.cuh"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {

cudaError_t launch_dx_float(const GradArgs& args, bool packed, bool small, cudaStream_t stream) {
  if (args.r.data != nullptr) {
    return launch_linear_grad<FloatLarge<true, false>, true>(args, stream);
  }
  if (packed) return launch_linear_grad<FloatLarge<true, true>, false>(args, stream);
  return small ? launch_linear_grad<FloatSmall<true, false>, false>(args, stream)
               : launch_linear_grad<FloatLarge<true, false>, false>(args, stream);
}

cudaError_t launch_dx_double(const GradArgs& args, bool packed, cudaStream_t stream) {
  if (args.r.data != nullptr) {
    return launch_linear_grad<DoubleSmall<true, false>, true>(args, stream);
  }
  return packed ? launch_linear_grad<DoubleSmall<true, true>, false>(args, stream)
                : launch_linear_grad<DoubleSmall<true, false>, false>(args, stream);
}

cudaError_t launch_dw_float(const GradArgs& args, cudaStream_t stream) {
  return args.r.data != nullptr ? launch_linear_grad<FloatLarge<false, false>, true>(args, stream)
                                : launch_linear_grad<FloatLarge<false, false>, false>(args, stream);
}

cudaError_t launch_dw_double(const GradArgs& args, cudaStream_t stream) {
  return args.r.data != nullptr
             ? launch_linear_grad<DoubleSmall<false, false>, true>(args, stream)
             : launch_linear_grad<DoubleSmall<false, false>, false>(args, stream);
}

}  // namespace thrifty::ensemble::cuda
