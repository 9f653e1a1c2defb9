#include "attention/core_fwd_sm90.cuh"

namespace thrifty::attention::cuda {

cudaError_t launch_fwd_fp16_sm90(int width, const FwdArgs& args, int processors,
                                 cudaStream_t stream) {
  return start_fwd_sm90<fp16>(width, args, processors, stream);
}

}  // namespace thrifty::attention::cuda
