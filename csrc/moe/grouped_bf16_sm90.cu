// Grouped products of bf16 operands on Hopper.
#include "moe/grouped_sm90.cuh"

namespace thrifty::moe::cuda {

cudaError_t launch_rows_sm90_bf16(const RowsArgs& args, TileRows tile, int processors,
                                  cudaStream_t stream) {
  return launch_rows_sm90<bf16>(args, tile, processors, stream);
}

}  // namespace thrifty::moe::cuda
