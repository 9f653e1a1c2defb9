#include "attention/core_bwd.cuh"

namespace thrifty::attention::cuda {

cudaError_t launch_bwd_bf16(int width, BwdPass pass, const BwdArgs& args, cudaStream_t stream) {
  return start_half_bwd<bf16>(width, pass, args, stream);
}

}  // namespace thrifty::attention::cuda
