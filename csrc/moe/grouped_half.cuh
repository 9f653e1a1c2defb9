// The grouped products' tiles for 16-bit operands, on tensor cores.
//
// Few rows a group are a question of reading the weights once: 16 rows by 128 columns with six
// stages, 69 KiB of which fly. 64 and 128 rows are for prefill and training.
#pragma once

#include "core/half_product.cuh"
#include "moe/grouped_depth.cuh"
#include "moe/grouped_rows.cuh"

namespace thrifty::moe::cuda {

template <class T, bool kDepthLines>
cudaError_t launch_rows_half(const RowsArgs& args, TileRows tile, cudaStream_t stream) {
  switch (tile) {
    case TileRows::k16:
      return launch_rows<HalfProduct<T, 1, 2, 1, 6, true, kDepthLines>, kDepthLines>(args, stream);
    case TileRows::k64:
      return launch_rows<HalfProduct<T, 2, 2, 2, 4, true, kDepthLines>, kDepthLines>(args, stream);
    default: return launch_rows<HalfLarge<T, true, kDepthLines>, kDepthLines>(args, stream);
  }
}

template <class T>
cudaError_t launch_rows_as(const RowsArgs& args, TileRows tile, cudaStream_t stream) {
  return args.b.depth_lines ? launch_rows_half<T, true>(args, tile, stream)
                            : launch_rows_half<T, false>(args, tile, stream);
}

}  // namespace thrifty::moe::cuda
