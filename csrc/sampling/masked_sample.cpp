// See masked_sample.h.
#include "sampling/masked_sample.h"

#include <algorithm>
#include <limits>

namespace thrifty::sampling {
namespace {

// What one thread needs for a row; kept, so that its memory is allocated once.
struct Worker {
  RowMass mass;
  std::vector<float> maxima;

  static Worker& mine() {
    thread_local Worker worker;
    return worker;
  }

  const float* find_maxima(const LogitsRow& row) {
    maxima.resize(size_t(row.blocks()));
    block_maxima(row, maxima.data());
    return maxima.data();
  }
};

struct Draw {
  int64_t token = -1;
  double logp = kNoLogit, log_z = kNoLogit;
  Status status = kNothingAllowed;
};

// The largest kept logit, the first of equal ones.
Draw greedy(const LogitsRow& row, Worker& worker) {
  std::vector<Ranked> best;
  top_k(row, worker.find_maxima(row), 1, best);
  if (best.empty()) return {};
  return {best[0].id, 0.0, 0.0, kOk};
}

Draw draw_row(const MaskedSample& op, int64_t b, ParallelFor blocks, Worker& worker) {
  LogitsRow row = op.batch.row(b);
  row.at_least = op.threshold[b];
  const bool is_greedy = op.batch.greedy(b);
  if (is_greedy) row.inv_temperature = 1;
  RowMass& mass = worker.mass;
  mass.measure(row, blocks);
  if (!mass.valid() || !(row.at_least == row.at_least)) return {.status = kInvalid};
  if (is_greedy) return greedy(row, worker);
  const Filters filters = op.filters[b];
  if (filters.any()) {
    const float* maxima = worker.find_maxima(row);
    mass.raise(threshold(filters, mass, maxima), maxima);
  }
  const Uniforms random = uniforms(op.seeds[b], op.offsets[b], Stream::kDraws, 0);
  const int64_t token = mass.draw(random.u, random.v);
  if (token < 0) return {};
  // At most 0: a token's weight and the sum that it is part of round differently.
  const double logp = std::min(0.0, mass.log_probability(token));
  return {token, logp, mass.all().log_of(mass.kept()), kOk};
}

}  // namespace

MaskedSample check_masked_sample(const MaskedSampleArgs& args) {
  const std::string& name = args.batch.op;
  MaskedSample op;
  op.batch = check_batch(args.batch);
  const int64_t rows = op.batch.rows;
  op.filters = check_filters(name, args.filters, rows, args.batch.on_device);
  op.threshold = check_per_row(name, "threshold", args.threshold, Dtype::kFloat32, rows, kNoLogit);
  op.seeds = check_seeds(name, "seeds", args.seeds, rows);
  op.offsets = check_seeds(name, "offsets", args.offsets, rows);
  op.fallback_token = args.fallback_token;
  return op;
}

void masked_sample(const MaskedSample& op, const MaskedSampleOut& out, ParallelFor parallel) {
  for_rows(op.batch.rows, parallel, [&](int64_t b, ParallelFor blocks) {
    const Draw draw = draw_row(op, b, blocks, Worker::mine());
    out.token[b] = draw.status == kOk ? draw.token : op.fallback_token;
    out.logp[b] = float(draw.logp);
    out.log_z[b] = float(draw.log_z);
    out.status[b] = draw.status;
  });
}

FilterThreshold check_filter_threshold(const BatchArgs& batch, const FilterArgs& filters) {
  FilterThreshold op;
  op.batch = check_batch(batch);
  op.filters = check_filters(batch.op, filters, op.batch.rows, batch.on_device);
  return op;
}

void filter_threshold(const FilterThreshold& op, const FilterThresholdOut& out,
                      ParallelFor parallel) {
  for_rows(op.batch.rows, parallel, [&](int64_t b, ParallelFor blocks) {
    Worker& worker = Worker::mine();
    const LogitsRow row = op.batch.row(b);
    RowMass& mass = worker.mass;
    mass.measure(row, blocks);
    if (!mass.valid()) {
      out.threshold[b] = std::numeric_limits<float>::quiet_NaN();
      out.log_mass[b] = kNoLogit;
      return;
    }
    const float* maxima = worker.find_maxima(row);
    out.threshold[b] = threshold(op.filters[b], mass, maxima);
    mass.raise(out.threshold[b], maxima);
    out.log_mass[b] = float(mass.all().log_of(mass.kept()));
  });
}

}  // namespace thrifty::sampling
