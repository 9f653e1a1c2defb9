// masked_sample and filter_threshold on CUDA (masked_sample.h).
//
//   row_sums        masses of all blocks, of all and of the allowed tokens     one read of the
//   logits row_threshold   theta of the filters, where there are any row_sums        masses of what
//   passes; reads only blocks that have such tokens draw            a warp per row: adds the
//   masses, draws a block, reads it, draws a token
#include "core/cuda/launch.h"
#include "core/row_mass.cuh"
#include "core/row_reader.cuh"
#include "sampling/rows_cuda.h"
#include "sampling/sampling_cuda.h"

namespace thrifty::sampling::cuda {
namespace {

using namespace thrifty::cuda;

struct DrawArgs {
  RowsArgs rows;
  const BlockMass *all, *kept;
  const float* max;
  const int64_t *seeds, *offsets;
  int64_t fallback_token;
  MaskedSampleOut out;
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) masked_draw_kernel(DrawArgs args) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (row >= args.rows.rows) return;  // a whole warp; there is no barrier below
  const int64_t blocks = args.rows.blocks();
  const RowReader<T> reader(args.rows, row);
  const BlockMass* const kept = args.kept + row * blocks;
  const RowTotal all = row_total(args.all + row * blocks, blocks);
  Pick pick;
  float logp = -INFINITY, log_z = -INFINITY;
  int32_t status = kNothingAllowed;
  if (all.sum != all.sum || reader.at_least != reader.at_least) {
    status = kInvalid;
  } else if (reader.greedy) {
    pick = largest_kept(reader, args.max + row * blocks, blocks);
    if (pick.token >= 0) logp = log_z = 0;
  } else {
    const RowTotal total = row_total(kept, blocks);
    const Uniforms random = uniforms(args.seeds[row], args.offsets[row], Stream::kDraws, 0);
    const int64_t block = draw_block(kept, blocks, total, random.u);
    if (block >= 0) {
      const BlockValues values = load_block(reader.view, block);
      pick = draw_in_block(values, reader.view.scale, reader.keep(values, block), block, random.v);
      // A token's weight and the sums it is part of round differently.
      logp = float(fmin(0.0, double(pick.logit) * reader.log_scale() - total.log()));
      log_z = float(fmin(0.0, total.log() - all.log()));
    }
  }
  if (lane_index() != 0) return;
  if (pick.token >= 0) status = kOk;
  args.out.token[row] = pick.token >= 0 ? pick.token : args.fallback_token;
  args.out.logp[row] = logp;
  args.out.log_z[row] = log_z;
  args.out.status[row] = status;
}

__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    filter_mass_kernel(const BlockMass* all, const BlockMass* kept, const float* theta,
                       int64_t rows, int64_t blocks, FilterThresholdOut out) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (row >= rows) return;
  const RowTotal whole = row_total(all + row * blocks, blocks);
  const RowTotal passed = row_total(kept + row * blocks, blocks);
  const bool invalid = whole.sum != whole.sum;
  if (lane_index() != 0) return;
  out.threshold[row] = invalid ? NAN : theta[row];
  out.log_mass[row] =
      invalid || passed.sum == 0 ? -INFINITY : float(fmin(0.0, passed.log() - whole.log()));
}

struct Scratch {
  Carver carver;
  RowMeasures rows;
  Scratch(const Batch& batch, void* memory)
      : carver(memory), rows(carver, batch.rows, rows_of(batch).blocks()) {}
};

}  // namespace

int64_t masked_sample_scratch(const MaskedSample& op) {
  return Scratch(op.batch, nullptr).carver.bytes();
}

Status masked_sample(const MaskedSample& op, const MaskedSampleOut& out, void* memory,
                     cudaStream_t stream) {
  const RowMeasures measures = Scratch(op.batch, memory).rows;
  RowsArgs rows = rows_of(op.batch);
  rows.at_least = per_request(op.threshold);
  const RowFilters filters = filters_of(op.filters);
  const Status status = measure_rows(rows, filters, filters.any(), measures, stream);
  if (!status.ok()) return status;
  const DrawArgs args{rows,     measures.all, measures.kept,     measures.max,
                      op.seeds, op.offsets,   op.fallback_token, out};
  const cudaError_t error = with_logits_type(rows.dtype, [&]<class T>(T) {
    return launch(masked_draw_kernel<T>, row_grid(rows.rows), kRowWarps * kWarpSize, 0, stream,
                  args);
  });
  return {error, "masked_draw"};
}

int64_t filter_threshold_scratch(const FilterThreshold& op) {
  return Scratch(op.batch, nullptr).carver.bytes();
}

Status filter_threshold(const FilterThreshold& op, const FilterThresholdOut& out, void* memory,
                        cudaStream_t stream) {
  const RowMeasures measures = Scratch(op.batch, memory).rows;
  RowsArgs rows = rows_of(op.batch);
  const Status status = measure_rows(rows, filters_of(op.filters), true, measures, stream);
  if (!status.ok()) return status;
  const cudaError_t error =
      launch(filter_mass_kernel, row_grid(rows.rows), kRowWarps * kWarpSize, 0, stream,
             measures.all, measures.kept, measures.theta, rows.rows, rows.blocks(), out);
  return {error, "filter_mass"};
}

}  // namespace thrifty::sampling::cuda
