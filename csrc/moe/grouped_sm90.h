// The grouped products of 16-bit operands on Hopper (grouped_sm90.cuh), and what they ask for.
#pragma once

#include "moe/grouped_args.h"

namespace thrifty::moe::cuda {

// Whether the kernels take the arguments: 16-byte rows of both operands, some depth, and W1's
// halves only with contiguous depths.
inline bool fits_sm90(const RowsArgs& args) {
  return args.a.vector == 8 && args.b.vector == 8 && args.b.depth > 0 && args.b.extent > 0 &&
         (args.b.depth_lines || !args.b.halves);
}

// `tile`: 16 and 64 rows are tokens on the product's narrow side and take contiguous depths only.
// cudaErrorNotSupported: the weights have strides that the copy engine does not take, or the tile
// none of these kernels; nothing was launched.
cudaError_t launch_rows_sm90_bf16(const RowsArgs& args, TileRows tile, int processors,
                                  cudaStream_t stream);
cudaError_t launch_rows_sm90_fp16(const RowsArgs& args, TileRows tile, int processors,
                                  cudaStream_t stream);

}  // namespace thrifty::moe::cuda
