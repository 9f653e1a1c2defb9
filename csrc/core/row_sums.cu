// Masses, largest logits and moments of the blocks of rows (row_sums.h).
#include "core/cuda/launch.h"
#include "core/row_reader.cuh"

namespace thrifty::cuda {
namespace {

constexpr int kWarps = 4;

// Relative to the block's largest kept logit, so that squares keep their digits.
THRIFTY_DEVICE BlockMoments block_moments(const BlockValues& values, uint32_t keep, float max) {
  float count = 0, sum = 0, squares = 0, min = INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    const float value = values.value[i];
    if ((keep >> i & 1) && value > -INFINITY) {
      const float below = value - max;
      count += 1;
      sum += below;
      squares += below * below;
      min = fminf(min, value);
    }
  }
  return {warp_sum(count), warp_sum(sum), warp_sum(squares), -warp_max(-min)};
}

template <class T>
__global__ void __launch_bounds__(kWarps* kWarpSize)
    row_sums_kernel(RowsArgs args, const float* known_max, RowSumsOut out) {
  const int64_t blocks = args.blocks();
  const unsigned groups = unsigned((blocks + kWarps - 1) / kWarps);
  const int64_t row = blockIdx.x / groups;
  const int64_t block = int64_t(blockIdx.x % groups) * kWarps + warp_index();
  if (block >= blocks) return;  // a whole warp; there is no barrier below
  const int64_t at = row * blocks + block;
  const RowReader<T> reader(args, row);
  if (known_max && !(known_max[at] >= reader.at_least && known_max[at] > -INFINITY)) {
    if (lane_index() == 0) out.kept[at] = {};
    return;
  }
  const BlockValues values = load_block(reader.view, block);
  const uint32_t keep = reader.keep(values, block);
  const float max = block_max(values, keep);
  const BlockMasses masses = block_masses(values, reader.view.scale, keep, max);
  if (lane_index() == 0) {
    if (out.all) out.all[at] = masses.all;
    if (out.kept) out.kept[at] = masses.kept;
    if (out.max) out.max[at] = max;
  }
  if (out.moments) {
    const BlockMoments moments = block_moments(values, keep, max);
    if (lane_index() == 0) out.moments[at] = moments;
  }
}

}  // namespace

cudaError_t launch_row_sums(const RowsArgs& rows, const float* known_max, const RowSumsOut& out,
                            cudaStream_t stream) {
  const int64_t grid = rows.rows * ((rows.blocks() + kWarps - 1) / kWarps);
  if (grid > INT32_MAX) return cudaErrorInvalidConfiguration;
  return with_logits_type(rows.dtype, [&]<class T>(T) {
    return launch(row_sums_kernel<T>, dim3(unsigned(grid)), kWarps * kWarpSize, 0, stream, rows,
                  known_max, out);
  });
}

}  // namespace thrifty::cuda
