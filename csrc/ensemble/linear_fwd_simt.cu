// Forward of a layer in float32 and float64: linear_fwd.cuh on the ordinary arithmetic units.
#include "core/simt_product.cuh"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {

// r multiplies on the way into shared memory, which needs no kernel of its own.
cudaError_t launch_fwd_float(const FwdArgs& args, bool packed, bool small, cudaStream_t stream) {
  if (packed) {
    return small ? launch_linear_fwd<FloatSmall<true, false>, false>(args, stream)
                 : launch_linear_fwd<FloatLarge<true, false>, false>(args, stream);
  }
  return small ? launch_linear_fwd<FloatSmall<true, true>, true>(args, stream)
               : launch_linear_fwd<FloatLarge<true, true>, true>(args, stream);
}

cudaError_t launch_fwd_double(const FwdArgs& args, bool packed, cudaStream_t stream) {
  return packed ? launch_linear_fwd<DoubleSmall<true, false>, false>(args, stream)
                : launch_linear_fwd<DoubleSmall<true, true>, true>(args, stream);
}

}  // namespace thrifty::ensemble::cuda
