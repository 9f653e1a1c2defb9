#include "attention/nearest.cuh"
#include "attention/nearest_launch.h"
#include "core/half_product.cuh"

namespace thrifty::attention::cuda {

using Product = HalfLarge<bf16, true, true>;

cudaError_t nearest_bf16(const NearestArgs& args, cudaStream_t stream) {
  return launch_nearest<Product>(args, stream);
}
cudaError_t gram_bf16(const GramArgs& args, cudaStream_t stream) {
  return launch_gram<Product>(args, stream);
}

}  // namespace thrifty::attention::cuda
