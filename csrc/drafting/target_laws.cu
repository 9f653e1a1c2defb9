// The laws of all rows: a warp each, so that walks find them ready.
#include "core/cuda/launch.h"
#include "drafting/target_row.cuh"
#include "drafting/target_rows_cuda.h"

namespace thrifty::drafting::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) target_laws_kernel(Target target) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (row >= target.rows.rows) return;  // a whole warp; there is no barrier below
  const TargetLaw law = target_law<T>(target, row);
  if (lane_index() == 0) target.laws[row] = law;
}

}  // namespace

cudaError_t launch_target_laws(const Target& target, cudaStream_t stream) {
  return with_logits_type(target.rows.dtype, [&]<class T>(T) {
    return launch(target_laws_kernel<T>, row_grid(target.rows.rows), kRowWarps * kWarpSize, 0,
                  stream, target);
  });
}

}  // namespace thrifty::drafting::cuda
