#include "attention/nearest_half.cuh"
#include "attention/nearest_launch.h"

namespace thrifty::attention::cuda {

cudaError_t nearest_fp16(const NearestArgs& args, cudaStream_t stream) {
  return launch_nearest<HalfNearest<fp16>>(args, stream);
}
cudaError_t gram_fp16(const GramArgs& args, cudaStream_t stream) {
  return launch_gram<HalfNearest<fp16>>(args, stream);
}

}  // namespace thrifty::attention::cuda
