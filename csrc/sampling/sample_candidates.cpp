// See sample_candidates.h.
#include "sampling/sample_candidates.h"

#include <algorithm>

#include "core/error.h"

namespace thrifty::sampling {
namespace {

void sample_row(const SampleCandidates& op, int64_t b, ParallelFor blocks,
                const SampleCandidatesOut& out) {
  thread_local RowMass mass;  // kept, so that its memory is allocated once
  int32_t* ids = out.ids + b * op.k;
  float *logp = out.logp + b * op.k, *log_rest = out.log_rest + b * op.k;
  std::fill_n(ids, op.k, -1);
  std::fill_n(logp, op.k, kNoLogit);
  std::fill_n(log_rest, op.k, kNoLogit);
  out.log_tail[b] = out.lse[b] = kNoLogit;
  mass.measure(op.batch.row(b), blocks);
  out.status[b] = mass.valid() ? kNothingAllowed : kInvalid;
  if (!mass.valid()) return;
  const double lse = mass.all().log();
  out.lse[b] = float(lse);
  for (int64_t j = 0; j < op.drawn_count; ++j) mass.remove(op.drawn[b * op.drawn_count + j]);
  for (int64_t j = 0; j < op.k; ++j) {
    const Uniforms random =
        uniforms(op.seeds[b], op.offsets[b], Stream::kDraws, uint32_t(op.drawn_count + j));
    const double rest = mass.kept().log() - lse;
    double log_weight = 0;
    const int64_t token = mass.draw(random.u, random.v, &log_weight);
    if (token < 0) return;
    out.status[b] = kOk;
    ids[j] = int32_t(token);
    log_rest[j] = float(std::min(0.0, rest));
    logp[j] = float(std::min(log_weight - lse, double(log_rest[j])));
    mass.remove(token);
  }
  const double tail = mass.kept().log() - lse;
  if (tail > kNoLogit) out.status[b] = kOk;
  out.log_tail[b] = float(std::min(0.0, tail));
}

}  // namespace

void check_finite_temperature(const std::string& op, const Batch& batch, bool on_device) {
  for (int64_t b = 0; b < batch.rows && !on_device; ++b) {
    THRIFTY_CHECK(batch.inv_temperature[b] > 0 && !batch.greedy(b), op,
                  ": inv_temperature: expected positive numbers up to 1e30, since without a "
                  "temperature there is no order, got ",
                  batch.inv_temperature[b]);
  }
}

SampleCandidates check_sample_candidates(const SampleCandidatesArgs& args) {
  const std::string& name = args.batch.op;
  SampleCandidates op;
  op.batch = check_batch(args.batch);
  const int64_t rows = op.batch.rows;
  check_finite_temperature(name, op.batch, args.batch.on_device);
  THRIFTY_CHECK(args.k >= 0, name, ": k: expected a number of candidates, got ", args.k);
  op.k = std::min(args.k, op.batch.vocab);
  if (args.drawn) {
    THRIFTY_CHECK(args.drawn.dtype == Dtype::kInt32 && args.drawn.ndim == 2 &&
                      args.drawn.shape[0] == rows,
                  name, ": drawn: expected int32 of shape (", rows, ", D), got ",
                  dtype_name(args.drawn.dtype), " ", shape_text(args.drawn));
    op.drawn = static_cast<const int32_t*>(args.drawn.data);
    op.drawn_count = args.drawn.shape[1];
  }
  op.seeds = check_seeds(name, "seeds", args.seeds, rows);
  op.offsets = check_seeds(name, "offsets", args.offsets, rows);
  return op;
}

void sample_candidates(const SampleCandidates& op, const SampleCandidatesOut& out,
                       ParallelFor parallel) {
  for_rows(op.batch.rows, parallel,
           [&](int64_t b, ParallelFor blocks) { sample_row(op, b, blocks, out); });
}

void awrs_coins(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                double* coins) {
  for (int64_t b = 0; b < rows; ++b) {
    for (int64_t j = 0; j < k; ++j) {
      coins[b * k + j] = uniforms(seeds[b], offsets[b], Stream::kCoins, uint32_t(j)).u;
    }
  }
}

}  // namespace thrifty::sampling
