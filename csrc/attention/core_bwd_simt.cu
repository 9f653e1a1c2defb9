#include "attention/core_bwd.cuh"
#include "attention/core_simt.cuh"

namespace thrifty::attention::cuda {
cudaError_t launch_bwd_simt(Dtype dtype, int width, BwdPass pass, const BwdArgs& args,
                            cudaStream_t stream) {
  if (dtype == Dtype::kFloat64) return start_bwd<Double>(pass, args, stream);
  if (width <= 64) return start_bwd<FloatNarrow>(pass, args, stream);
  if (width <= 128) return start_bwd<FloatMiddle>(pass, args, stream);
  return start_bwd<FloatWide>(pass, args, stream);
}

int bwd_rows(Dtype dtype, int width) {
  if (is_half(dtype)) return 64;
  if (dtype == Dtype::kFloat64) return Double::kRows;
  return width <= 128 ? FloatMiddle::kRows : FloatWide::kRows;
}

cudaError_t launch_bwd(Dtype dtype, int width, BwdPass pass, const BwdArgs& args,
                       cudaStream_t stream) {
  if (dtype == Dtype::kBFloat16) return launch_bwd_bf16(width, pass, args, stream);
  if (dtype == Dtype::kFloat16) return launch_bwd_fp16(width, pass, args, stream);
  return launch_bwd_simt(dtype, width, pass, args, stream);
}

}  // namespace thrifty::attention::cuda
