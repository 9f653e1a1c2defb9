// out[i] = partial[0][i] + partial[1][i] + ..., the second stage of every sum over rows: always in
// the same order, so results never depend on which block came first. No partial sums give zeros.
//
// Eight threads share an element: each adds every eighth partial sum, then their results in order.
#include "core/cuda/launch.h"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {
namespace {

constexpr int kColumns = 32, kShares = 8;

template <class A, class Out>
__global__ void __launch_bounds__(kColumns* kShares)
    partial_sums_kernel(const A* __restrict__ partial, Out* __restrict__ out, int64_t n,
                        int64_t count) {
  THRIFTY_SHARED(A, shares, [kShares][kColumns]);
  const int64_t i = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  A sum = 0;
  if (i < n) {
    for (int64_t p = threadIdx.y; p < count; p += kShares)
      sum += load_readonly(partial + p * n + i);
  }
  shares[threadIdx.y][threadIdx.x] = sum;
  syncthreads();
  if (threadIdx.y == 0 && i < n) {
    A total = 0;
    for (int share = 0; share < kShares; ++share) total += shares[share][threadIdx.x];
    out[i] = from_float<Out>(total);
  }
}

template <class A, class Out>
cudaError_t launch_as(const PartialSums& args, cudaStream_t stream) {
  dim3 grid;
  if (!one_dimensional_grid((args.n + kColumns - 1) / kColumns, grid)) {
    return cudaErrorInvalidConfiguration;
  }
  return launch(partial_sums_kernel<A, Out>, grid, dim3(kColumns, kShares), 0, stream,
                static_cast<const A*>(args.partial), static_cast<Out*>(args.out), args.n,
                args.count);
}

}  // namespace

cudaError_t launch_partial_sums(const PartialSums& args, cudaStream_t stream) {
  if (args.wide) return launch_as<double, double>(args, stream);
  switch (args.dtype) {
    case Dtype::kBFloat16: return launch_as<float, bf16>(args, stream);
    case Dtype::kFloat16: return launch_as<float, fp16>(args, stream);
    default: return launch_as<float, float>(args, stream);
  }
}

}  // namespace thrifty::ensemble::cuda
