// sample_candidates on CUDA (sample_candidates.h): a warp per row draws one token after the other
// from block masses, with the CPU's random numbers.
#include "core/cuda/launch.h"
#include "core/row_draws.cuh"
#include "sampling/awrs_cuda.h"
#include "sampling/rows_cuda.h"

namespace thrifty::sampling::cuda {
namespace {

using namespace thrifty::cuda;

struct Scratch {
  BlockMass *all, *kept;
  int32_t* removed;  // [rows, drawn + k]
  int64_t bytes;

  Scratch(const SampleCandidates& op, void* memory) {
    const int64_t blocks = op.batch.rows * rows_of(op.batch).blocks();
    Carver carver(memory);
    carver.take(all, blocks);
    carver.take(kept, blocks);
    carver.take(removed, op.batch.rows * (op.drawn_count + op.k));
    bytes = carver.bytes();
  }
};

struct CandidateArgs {
  RowsArgs rows;
  const BlockMass* all;
  BlockMass* kept;
  int32_t* removed;
  int64_t k, drawn_count;
  const int32_t* drawn;
  const int64_t *seeds, *offsets;
  SampleCandidatesOut out;
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1)
    sample_candidates_kernel(CandidateArgs args) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (row >= args.rows.rows) return;  // a whole warp; there is no barrier below
  const int64_t blocks = args.rows.blocks(), k = args.k, before = args.drawn_count;
  int32_t* const ids = args.out.ids + row * k;
  float *const logp = args.out.logp + row * k, *const log_rest = args.out.log_rest + row * k;
  const RowReader<T> reader(args.rows, row);
  const RowTotal all = row_total(args.all + row * blocks, blocks);
  const bool valid = all.sum == all.sum && !reader.greedy;
  const double lse = valid ? all.log() : -INFINITY;
  int32_t status = valid ? kNothingAllowed : kInvalid;
  double tail = -INFINITY;
  int64_t found = 0;
  if (valid) {
    int32_t* const removed = args.removed + row * (before + k);
    for (int64_t j = lane_index(); j < before; j += kWarpSize) {
      removed[j] = args.drawn[row * before + j];
    }
    syncwarp();
    RowDraws<T> draws(reader, args.kept + row * blocks, blocks);
    draws.remove_all(removed, before);
    for (; found < k; ++found) {
      const Uniforms random =
          uniforms(args.seeds[row], args.offsets[row], Stream::kDraws, uint32_t(before + found));
      const Pick pick = draws.draw(random.u, random.v);
      if (pick.token < 0) break;
      const double rest = fmin(0.0, draws.total().log() - lse);
      if (lane_index() == 0) {
        ids[found] = int32_t(pick.token);
        log_rest[found] = float(rest);
        logp[found] =
            float(fmin(double(pick.logit) * reader.log_scale() - lse, double(float(rest))));
        removed[before + found] = int32_t(pick.token);
      }
      syncwarp();
      draws.remove_next(removed);
    }
    if (found == k) tail = fmin(0.0, draws.total().log() - lse);
    if (found > 0 || tail > -INFINITY) status = kOk;
  }
  for (int64_t j = found + lane_index(); j < k; j += kWarpSize) {
    ids[j] = -1;
    logp[j] = log_rest[j] = -INFINITY;
  }
  if (lane_index() != 0) return;
  args.out.log_tail[row] = float(tail);
  args.out.lse[row] = float(lse);
  args.out.status[row] = status;
}

}  // namespace

int64_t sample_candidates_scratch(const SampleCandidates& op) { return Scratch(op, nullptr).bytes; }

Status sample_candidates(const SampleCandidates& op, const SampleCandidatesOut& out, void* memory,
                         cudaStream_t stream) {
  const Scratch scratch(op, memory);
  const RowsArgs rows = rows_of(op.batch);
  cudaError_t error =
      launch_row_sums(rows, nullptr, {scratch.all, scratch.kept, nullptr, nullptr}, stream);
  if (error != cudaSuccess) return {error, "row_sums"};
  const CandidateArgs args{rows,           scratch.all, scratch.kept, scratch.removed, op.k,
                           op.drawn_count, op.drawn,    op.seeds,     op.offsets,      out};
  error = with_logits_type(rows.dtype, [&]<class T>(T) {
    return launch(sample_candidates_kernel<T>, row_grid(rows.rows), kRowWarps * kWarpSize, 0,
                  stream, args);
  });
  return {error, "sample_candidates"};
}

}  // namespace thrifty::sampling::cuda
