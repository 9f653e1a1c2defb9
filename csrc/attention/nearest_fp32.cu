#include "attention/nearest.cuh"
#include "attention/nearest_launch.h"
#include "core/simt_product.cuh"

namespace thrifty::attention::cuda {

struct Product : FloatLarge<true, true> {
  static constexpr int kColumnGroups = kSimtSide;  // threads that share a row
  static THRIFTY_DEVICE int column_group() { return int(threadIdx.x) % kSimtSide; }
};

cudaError_t nearest_fp32(const NearestArgs& args, cudaStream_t stream) {
  return launch_nearest<Product>(args, stream);
}
cudaError_t gram_fp32(const GramArgs& args, cudaStream_t stream) {
  return launch_gram<Product>(args, stream);
}

LaunchStatus nearest(const NearestArgs& args, cudaStream_t stream) {
  const char* const name = "nearest";
  switch (args.rows.dtype) {
    case Dtype::kFloat32: return {nearest_fp32(args, stream), name};
    case Dtype::kBFloat16: return {nearest_bf16(args, stream), name};
    case Dtype::kFloat16: return {nearest_fp16(args, stream), name};
    default: return {cudaErrorInvalidValue, name};
  }
}

LaunchStatus gram(Dtype dtype, const GramArgs& args, cudaStream_t stream) {
  const char* const name = "gram";
  switch (dtype) {
    case Dtype::kFloat32: return {gram_fp32(args, stream), name};
    case Dtype::kBFloat16: return {gram_bf16(args, stream), name};
    case Dtype::kFloat16: return {gram_fp16(args, stream), name};
    default: return {cudaErrorInvalidValue, name};
  }
}

}  // namespace thrifty::attention::cuda
