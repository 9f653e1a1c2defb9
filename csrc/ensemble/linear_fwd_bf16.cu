// Forward of a layer with bf16 operands: linear_fwd.cuh on tensor cores.
#include "core/half_product.cuh"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {

cudaError_t launch_fwd_bf16(const FwdArgs& args, bool packed, bool small, cudaStream_t stream) {
  if (packed) {
    return small ? launch_linear_fwd<HalfSmall<bf16, true, false>, false>(args, stream)
                 : launch_linear_fwd<HalfLarge<bf16, true, false>, false>(args, stream);
  }
  if (args.product.scale.data != nullptr) {
    return small ? launch_linear_fwd<HalfSmall<bf16, true, true>, true>(args, stream)
                 : launch_linear_fwd<HalfLarge<bf16, true, true>, true>(args, stream);
  }
  return small ? launch_linear_fwd<HalfSmall<bf16, true, true>, false>(args, stream)
               : launch_linear_fwd<HalfLarge<bf16, true, true>, false>(args, stream);
}

}  // namespace thrifty::ensemble::cuda
