// Grouped products of float32 and float64 operands, on the ordinary arithmetic units; no TF32.
#include "core/simt_product.cuh"
#include "moe/grouped_depth.cuh"
#include "moe/grouped_rows.cuh"

namespace thrifty::moe::cuda {

cudaError_t launch_rows_float(RowsArgs args, cudaStream_t stream) {
  return args.b.depth_lines ? launch_rows<FloatSmall<true, true>, true>(args, stream)
                            : launch_rows<FloatSmall<true, false>, false>(args, stream);
}
cudaError_t launch_rows_double(RowsArgs args, cudaStream_t stream) {
  return args.b.depth_lines ? launch_rows<DoubleSmall<true, true>, true>(args, stream)
                            : launch_rows<DoubleSmall<true, false>, false>(args, stream);
}

cudaError_t launch_depth_float(const DepthArgs& args, cudaStream_t stream) {
  return launch_depth<FloatSmall<false, false>>(args, stream);
}
cudaError_t launch_depth_double(const DepthArgs& args, cudaStream_t stream) {
  return launch_depth<DoubleSmall<false, false>>(args, stream);
}

}  // namespace thrifty::moe::cuda
