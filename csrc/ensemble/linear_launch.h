// The kernels of the ensemble layers by what they compute; each is started from one .cu file.
//
// `partial` and `dr` of the arguments are float (double for float64), whatever the storage.
#pragma once

#include "core/dtype.h"
#include "ensemble/linear_fwd.cuh"
#include "ensemble/linear_grad.cuh"

namespace thrifty::ensemble::cuda {

// dz and the sums over rows that backward needs (linear_dz.cu).
struct DzArgs {
  RowArgs rows;
  const void* grad = nullptr;
  const void* z = nullptr;  // null where it is not needed
  void* dz = nullptr;       // null where only sums are wanted
  int members = 0;
  void *dr_next = nullptr, *dbias = nullptr, *ds = nullptr;  // [chunk][member][column], or null
};
constexpr int kDzRows = 128;  // samples of a chunk

// out[i] = sum over p of partial[p][i], p = 0, 1, ..., n elements (partial_sums.cu).
struct PartialSums {
  const void* partial = nullptr;
  void* out = nullptr;
  int64_t n = 0, count = 0;
  bool wide = false;  // partial is double
  Dtype dtype = Dtype::kFloat32;
};

cudaError_t launch_dz(Dtype dtype, const DzArgs& args, cudaStream_t stream);
cudaError_t launch_partial_sums(const PartialSums& args, cudaStream_t stream);

// `packed`: a weight per member, (in, out). `small`: tiles of 64 x 64 instead of 128 x 128, for the
// kernels that have both.
cudaError_t launch_fwd_bf16(const FwdArgs& args, bool packed, bool small, cudaStream_t stream);
cudaError_t launch_fwd_fp16(const FwdArgs& args, bool packed, bool small, cudaStream_t stream);
cudaError_t launch_fwd_float(const FwdArgs& args, bool packed, bool small, cudaStream_t stream);
cudaError_t launch_fwd_double(const FwdArgs& args, bool packed, cudaStream_t stream);

// g = dz W. With args.r, member by member.
cudaError_t launch_dx_bf16(const GradArgs& args, bool packed, bool small, cudaStream_t stream);
cudaError_t launch_dx_fp16(const GradArgs& args, bool packed, bool small, cudaStream_t stream);
cudaError_t launch_dx_float(const GradArgs& args, bool packed, bool small, cudaStream_t stream);
cudaError_t launch_dx_double(const GradArgs& args, bool packed, cudaStream_t stream);

// dW = dz^T x, or x^T dz.
cudaError_t launch_dw_bf16(const GradArgs& args, cudaStream_t stream);
cudaError_t launch_dw_fp16(const GradArgs& args, cudaStream_t stream);
cudaError_t launch_dw_float(const GradArgs& args, cudaStream_t stream);
cudaError_t launch_dw_double(const GradArgs& args, cudaStream_t stream);

}  // namespace thrifty::ensemble::cuda
