#include "attention/core_fwd.cuh"
#include "attention/core_simt.cuh"
#include "core/cuda/device.h"

namespace thrifty::attention::cuda {

cudaError_t launch_fwd_simt(Dtype dtype, int width, const FwdArgs& args, cudaStream_t stream) {
  if (dtype == Dtype::kFloat64) return start_fwd<Double>(args, stream);
  if (width <= 64) return start_fwd<FloatNarrow>(args, stream);
  if (width <= 128) return start_fwd<FloatMiddle>(args, stream);
  return start_fwd<FloatWide>(args, stream);
}

TileShape fwd_shape(Dtype dtype, int width) {
  if (is_half(dtype)) return width <= 128 ? TileShape{128, 64} : TileShape{64, 64};
  if (dtype == Dtype::kFloat64) return {Double::kRows, Double::kColumns};
  return width <= 128 ? TileShape{FloatMiddle::kRows, FloatMiddle::kColumns}
                      : TileShape{FloatWide::kRows, FloatWide::kColumns};
}

namespace {

// cudaErrorNotSupported: not on this device, or not with these arguments.
cudaError_t launch_fwd_hopper(Dtype dtype, int width, const FwdArgs& args, cudaStream_t stream) {
  if (!is_half(dtype)) return cudaErrorNotSupported;
  DeviceInfo device;
  if (const cudaError_t error = device_info(&device); error != cudaSuccess) return error;
  if (device.major != 9) return cudaErrorNotSupported;
  const auto start = dtype == Dtype::kBFloat16 ? launch_fwd_bf16_sm90 : launch_fwd_fp16_sm90;
  return start(width, args, device.processors, stream);
}

}  // namespace

cudaError_t launch_fwd(Dtype dtype, int width, const FwdArgs& args, cudaStream_t stream) {
  const cudaError_t hopper = launch_fwd_hopper(dtype, width, args, stream);
  if (hopper != cudaErrorNotSupported) return hopper;
  if (dtype == Dtype::kBFloat16) return launch_fwd_bf16(width, args, stream);
  if (dtype == Dtype::kFloat16) return launch_fwd_fp16(width, args, stream);
  return launch_fwd_simt(dtype, width, args, stream);
}

}  // namespace thrifty::attention::cuda
