// See awrs_sample_dfa.h.
#include "sampling/awrs_sample_dfa.h"

#include <algorithm>

#include "core/error.h"
#include "sampling/awrs_weights.h"
#include "sampling/sample_candidates.h"

namespace thrifty::sampling {
namespace {

struct Found {
  int64_t token = -1;
  int32_t state = ByteDfa::kDead;
  double logw = kNoLogit;
  int64_t checked = 0;
  Status status = kNothingAllowed;
};

// What one thread needs for a row; kept, so that its memory is allocated once.
struct Worker {
  RowMass mass;
  std::vector<int32_t> mask;

  static Worker& mine() {
    thread_local Worker worker;
    return worker;
  }
};

// The exact draw and weight, from a mask over the vocabulary.
Found sample_by_mask(const AwrsSampleDfa& op, int64_t b, int64_t checked, ParallelFor blocks,
                     Worker& worker) {
  const int32_t state = op.state[b];
  worker.mask.resize(size_t(op.dfa.vocabulary + 31) / 32);
  byte_dfa_bitmask(op.dfa, &state, 1, worker.mask.data(), blocks);
  LogitsRow row = op.batch.row(b);
  row.mask = reinterpret_cast<const uint32_t*>(worker.mask.data());
  row.mask_words = std::min(int64_t(worker.mask.size()), (row.vocab + 31) / 32);
  worker.mass.measure(row, blocks);
  const Uniforms random =
      uniforms(op.seeds[b], op.offsets[b], Stream::kDraws, uint32_t(checked));
  const int64_t token = worker.mass.draw(random.u, random.v);
  const Found nothing{.checked = checked + op.dfa.vocabulary};
  if (token < 0) return nothing;
  const double log_z = std::min(0.0, worker.mass.kept().log() - worker.mass.all().log());
  const bool weighted = op.rule.estimator != AwrsEstimator::kNone;
  return {token, op.dfa.step(state, token), weighted ? log_z : 0.0, nothing.checked, kOk};
}

// The paper's weight has its mean over both loops together, so its first may not be replaced.
bool may_use_mask(const AwrsRule& rule) {
  return rule.budget == kNoBudget && rule.estimator != AwrsEstimator::kPaper;
}

Found sample_row(const AwrsSampleDfa& op, int64_t b, ParallelFor blocks, Worker& worker) {
  const int32_t state = op.state[b];
  if (!op.dfa.is_state(state)) return {};
  RowMass& mass = worker.mass;
  mass.measure(op.batch.row(b), blocks);
  if (!mass.valid()) return {.status = kInvalid};
  const double lse = mass.all().log();
  const bool coins = op.rule.estimator == AwrsEstimator::kPaper;
  AwrsWalk walk(op.rule);
  Found found;
  while (!walk.done()) {
    const uint32_t number = uint32_t(walk.checked());
    if (number == AwrsSampleDfa::kPatience && found.token < 0 && may_use_mask(op.rule)) {
      return sample_by_mask(op, b, number, blocks, worker);
    }
    const double log_rest = std::min(0.0, mass.kept().log() - lse);
    const Uniforms random = uniforms(op.seeds[b], op.offsets[b], Stream::kDraws, number);
    if (coins) {
      const Uniforms coin = uniforms(op.seeds[b], op.offsets[b], Stream::kCoins, number);
      if (walk.coin_ends(log_rest, coin.u)) break;
    }
    double log_weight = 0;
    const int64_t token = mass.draw(random.u, random.v, &log_weight);
    if (token < 0) {
      walk.end_of_order();
      break;
    }
    const int32_t next = op.dfa.step(state, token);
    if (next >= 0 && found.token < 0) found.token = token, found.state = next;
    walk.see(next >= 0, std::min(log_weight - lse, log_rest), log_rest);
    if (!walk.done()) mass.remove(token);
  }
  found.checked = walk.checked();
  found.logw = std::min(0.0, walk.log_weight());
  found.status = found.token >= 0                    ? kOk
                 : walk.checked() == op.rule.budget ? kBudget
                                                     : kNothingAllowed;
  return found;
}

}  // namespace

AwrsSampleDfa check_awrs_sample_dfa(const AwrsSampleDfaArgs& args) {
  const std::string& name = args.batch.op;
  AwrsSampleDfa op;
  op.rule = check_awrs_rule(name.c_str(), args.estimator, args.extra, args.budget);
  op.batch = check_batch(args.batch);
  const int64_t rows = op.batch.rows;
  check_finite_temperature(name, op.batch, args.batch.on_device);
  op.dfa = check_byte_dfa(name.c_str(), args.dfa);
  THRIFTY_CHECK(args.state.dtype == Dtype::kInt32 && args.state.ndim == 1 &&
                    args.state.shape[0] == rows,
                name, ": state: expected int32 of shape (", rows, ",), got ",
                dtype_name(args.state.dtype), " ", shape_text(args.state));
  op.state = static_cast<const int32_t*>(args.state.data);
  op.seeds = check_seeds(name, "seeds", args.seeds, rows);
  op.offsets = check_seeds(name, "offsets", args.offsets, rows);
  op.fallback_token = args.fallback_token;
  return op;
}

void awrs_sample_dfa(const AwrsSampleDfa& op, const AwrsSampleDfaOut& out, ParallelFor parallel) {
  for_rows(op.batch.rows, parallel, [&](int64_t b, ParallelFor blocks) {
    const Found found = sample_row(op, b, blocks, Worker::mine());
    out.token[b] = found.token >= 0 ? found.token : op.fallback_token;
    out.logw[b] = float(found.logw);
    out.new_state[b] = found.state;
    out.n_checked[b] = int32_t(found.checked);
    out.status[b] = found.status;
  });
}

}  // namespace thrifty::sampling
