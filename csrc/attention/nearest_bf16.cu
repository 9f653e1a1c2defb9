#include "attention/nearest_half.cuh"
#include "attention/nearest_launch.h"

namespace thrifty::attention::cuda {

cudaError_t nearest_bf16(const NearestArgs& args, cudaStream_t stream) {
  return launch_nearest<HalfNearest<bf16>>(args, stream);
}
cudaError_t gram_bf16(const GramArgs& args, cudaStream_t stream) {
  return launch_gram<HalfNearest<bf16>>(args, stream);
}

}  // namespace thrifty::attention::cuda
