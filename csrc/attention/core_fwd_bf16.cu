#include "attention/core_fwd.cuh"

namespace thrifty::attention::cuda {

cudaError_t launch_fwd_bf16(int width, const FwdArgs& args, cudaStream_t stream) {
  return start_half_fwd<bf16>(width, args, stream);
}

}  // namespace thrifty::attention::cuda
