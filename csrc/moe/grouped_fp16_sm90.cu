// Grouped products of fp16 operands on Hopper.
#include "moe/grouped_sm90.cuh"

namespace thrifty::moe::cuda {

cudaError_t launch_rows_sm90_fp16(const RowsArgs& args, TileRows tile, int processors,
                                  cudaStream_t stream) {
  return launch_rows_sm90<fp16>(args, tile, processors, stream);
}

}  // namespace thrifty::moe::cuda
