// row_stats on CUDA: after the masses of the blocks, a warp per row.
#include "core/cuda/launch.h"
#include "drafting/target_row.cuh"
#include "drafting/target_rows_cuda.h"
#include "drafting/verify_cuda.h"

namespace thrifty::drafting::cuda {
namespace {

struct StatsArgs {
  Target target;
  const int32_t* exclude;
  int64_t excluded, k;
  const int64_t *seed, *offset;
  RowStatsOut out;
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) row_stats_kernel(StatsArgs args) {
  const int64_t i = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (i >= args.target.rows.rows) return;  // a whole warp; there is no barrier below
  int32_t* const ids = args.out.topk_ids + i * args.k;
  float* const probs = args.out.topk_probs + i * args.k;
  const TargetRow<T> row(args.target, i, target_law<T>(args.target, i));
  int32_t drawn = -1;
  if (row.good()) {
    row.top(args.k, ids, probs);
    if (args.seed) {
      const int32_t* const exclude = args.exclude ? args.exclude + i * args.excluded : nullptr;
      drawn =
          row.draw_outside(exclude, args.excluded, args.seed[i], args.offset ? args.offset[i] : 0);
    }
  } else {
    row.no_top(args.k, ids, probs);
  }
  if (lane_index() != 0) return;
  args.out.lse[i] = row.good() ? float(row.log_mass()) : 0;
  args.out.draw[i] = drawn;
  args.out.status[i] = row.good() ? kGood : kBadLogits;
}

RowMeasures measures_of(const RowStats& call, Carver& carver) {
  return RowMeasures(carver, call.logits.rows, rows_of(call.logits, call.settings, 1).blocks());
}

}  // namespace

int64_t row_stats_scratch(const RowStats& call) {
  Carver carver(nullptr);
  measures_of(call, carver);
  return carver.bytes();
}

LaunchStatus row_stats(const RowStats& call, const RowStatsOut& out, void* scratch,
                       cudaStream_t stream) {
  Carver carver(scratch);
  const RowMeasures measures = measures_of(call, carver);
  RowsArgs rows = rows_of(call.logits, call.settings, 1);
  const RowFilters filters = filters_of(call.settings);
  const LaunchStatus status = measure_rows(rows, filters, filters.any(), measures, stream);
  if (!status.ok()) return status;
  const StatsArgs args{{rows, measures.all, measures.kept, measures.max, nullptr},
                       call.exclude,
                       call.excluded,
                       call.k,
                       call.settings.seed,
                       call.settings.offset,
                       out};
  const cudaError_t error = with_logits_type(rows.dtype, [&]<class T>(T) {
    return launch(row_stats_kernel<T>, row_grid(rows.rows), kRowWarps * kWarpSize, 0, stream, args);
  });
  return {error, "row_stats"};
}

}  // namespace thrifty::drafting::cuda
