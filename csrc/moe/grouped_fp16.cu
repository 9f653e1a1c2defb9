// Grouped products of fp16 operands.
#include "moe/grouped_half.cuh"

namespace thrifty::moe::cuda {

cudaError_t launch_rows_fp16(RowsArgs args, TileRows tile, cudaStream_t stream) {
  return launch_rows_as<fp16>(args, tile, stream);
}

cudaError_t launch_depth_fp16(const DepthArgs& args, cudaStream_t stream) {
  return launch_depth<HalfLarge<fp16, false, false>>(args, stream);
}

}  // namespace thrifty::moe::cuda
