// Grouped products of bf16 operands.
#include "moe/grouped_half.cuh"

namespace thrifty::moe::cuda {

cudaError_t launch_rows_bf16(RowsArgs args, TileRows tile, cudaStream_t stream) {
  return launch_rows_as<bf16>(args, tile, stream);
}

cudaError_t launch_depth_bf16(const DepthArgs& args, cudaStream_t stream) {
  return launch_depth<HalfLarge<bf16, false, false>>(args, stream);
}

}  // namespace thrifty::moe::cuda
