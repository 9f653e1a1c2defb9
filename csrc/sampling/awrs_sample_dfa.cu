// awrs_sample_dfa on CUDA (awrs_sample_dfa.h), without a return to the host:
//
//   row_sums   masses of all blocks
//   walk       a warp per row draws tokens without replacement and walks their bytes, until the
//              weight is settled; or gives up after kPatience refusals
//   check      of the rows that gave up: which tokens of each block are allowed, and their mass
//   settle     of those rows: the exact draw among all that are allowed
#include "core/cuda/launch.h"
#include "core/row_draws.cuh"
#include "sampling/awrs_cuda.h"
#include "sampling/rows_cuda.h"

namespace thrifty::sampling::cuda {
namespace {

using namespace thrifty::cuda;

struct Scratch {
  BlockMass *all, *kept;
  int32_t *removed, *gave_up;  // [rows, kPatience + 1 + extra], [rows]
  int64_t listed, bytes;

  // Tokens that a walk may draw: with a budget at most so many, else kPatience refusals and the
  // terms of one estimate; the paper's second loop ends when it ends.
  static int64_t most_listed(const AwrsSampleDfa& op) {
    const bool patient = op.rule.budget == kNoBudget;
    const int64_t bound = op.rule.estimator == AwrsEstimator::kPaper ? op.batch.vocab
                          : patient ? AwrsSampleDfa::kPatience + 1 + op.rule.extra
                                    : op.rule.budget;
    return bound < op.batch.vocab ? bound : op.batch.vocab;
  }

  Scratch(const AwrsSampleDfa& op, void* memory) : listed(most_listed(op)) {
    const int64_t blocks = op.batch.rows * rows_of(op.batch).blocks();
    Carver carver(memory);
    carver.take(all, blocks);
    carver.take(kept, blocks);
    carver.take(removed, op.batch.rows * listed);
    carver.take(gave_up, op.batch.rows);
    bytes = carver.bytes();
  }
};

struct DfaArgs {
  RowsArgs rows;
  Scratch scratch;
  ByteDfa dfa;
  AwrsRule rule;
  const int32_t* state;
  const int64_t *seeds, *offsets;
  int64_t fallback_token;
  AwrsSampleDfaOut out;
};

struct Found {
  int64_t token = -1;
  int32_t state = ByteDfa::kDead;
  double logw = -INFINITY;
  int64_t checked = 0;
  int32_t status = kNothingAllowed;
};

THRIFTY_DEVICE void write(const DfaArgs& args, int64_t row, const Found& found) {
  if (lane_index() != 0) return;
  args.out.token[row] = found.token >= 0 ? found.token : args.fallback_token;
  args.out.logw[row] = float(found.logw);
  args.out.new_state[row] = found.state;
  args.out.n_checked[row] = int32_t(found.checked);
  args.out.status[row] = found.status;
}

// The walk of one row; true where it gave up. All lanes hold the same walk.
template <class T>
THRIFTY_DEVICE bool walk_row(const DfaArgs& args, int64_t row, Found& found) {
  const int32_t state = args.state[row];
  const int64_t blocks = args.rows.blocks();
  const RowReader<T> reader(args.rows, row);
  if (!args.dfa.is_state(state)) return false;
  const RowTotal all = row_total(args.scratch.all + row * blocks, blocks);
  if (all.sum != all.sum || reader.greedy) {
    found.status = kInvalid;
    return false;
  }
  const double lse = all.log();
  const bool coins = args.rule.estimator == AwrsEstimator::kPaper;
  const bool may_give_up = !coins && args.rule.budget == kNoBudget;
  const int64_t seed = args.seeds[row], offset = args.offsets[row];
  int32_t* const removed = args.scratch.removed + row * args.scratch.listed;
  RowDraws<T> draws(reader, args.scratch.kept + row * blocks, blocks);
  AwrsWalk walk(args.rule);
  while (!walk.done()) {
    const auto number = uint32_t(walk.checked());
    if (number == AwrsSampleDfa::kPatience && found.token < 0 && may_give_up) return true;
    const double log_rest = fmin(0.0, draws.total().log() - lse);
    const Uniforms random = uniforms(seed, offset, Stream::kDraws, number);
    if (coins && walk.coin_ends(log_rest, uniforms(seed, offset, Stream::kCoins, number).u)) {
      break;
    }
    const Pick pick = draws.draw(random.u, random.v);
    if (pick.token < 0) {
      walk.end_of_order();
      break;
    }
    const int32_t next = args.dfa.step(state, pick.token);
    if (next >= 0 && found.token < 0) found.token = pick.token, found.state = next;
    walk.see(next >= 0, fmin(double(pick.logit) * reader.log_scale() - lse, log_rest), log_rest);
    if (walk.done() || int64_t(number) >= args.scratch.listed) break;
    if (lane_index() == 0) removed[number] = int32_t(pick.token);
    syncwarp();
    draws.remove_next(removed);
  }
  found.checked = walk.checked();
  found.logw = fmin(0.0, walk.log_weight());
  found.status = found.token >= 0                     ? kOk
                 : walk.checked() == args.rule.budget ? kBudget
                                                      : kNothingAllowed;
  return false;
}

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1) awrs_walk_kernel(DfaArgs args) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (row >= args.rows.rows) return;  // a whole warp; there is no barrier below
  Found found;
  const bool gave_up = walk_row<T>(args, row, found);
  if (lane_index() == 0) args.scratch.gave_up[row] = gave_up;
  if (!gave_up) write(args, row, found);
}

// Which of the lane's tokens of a block the automaton allows.
THRIFTY_DEVICE uint32_t automaton_bits(const ByteDfa& dfa, int32_t state, int64_t block) {
  uint32_t bits = 0;
#pragma unroll 1
  for (int i = 0; i < kLaneValues; ++i) {
    bits |= uint32_t(dfa.step(state, token_of(block, i)) >= 0) << i;
  }
  return bits;
}

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) awrs_check_kernel(DfaArgs args) {
  const auto groups = unsigned((args.rows.blocks() + kRowWarps - 1) / kRowWarps);
  const int64_t row = blockIdx.x / groups;
  const int64_t block = int64_t(blockIdx.x % groups) * kRowWarps + warp_index();
  if (block >= args.rows.blocks() || !args.scratch.gave_up[row]) return;
  const RowReader<T> reader(args.rows, row);
  const uint32_t bits = automaton_bits(args.dfa, args.state[row], block);
  const BlockMass mass = kept_mass(load_block(reader.view, block), reader.view.scale, bits);
  if (lane_index() == 0) args.scratch.kept[row * args.rows.blocks() + block] = mass;
}

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1) awrs_settle_kernel(DfaArgs args) {
  const int64_t row = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (row >= args.rows.rows || !args.scratch.gave_up[row]) return;
  const int64_t blocks = args.rows.blocks();
  const RowReader<T> reader(args.rows, row);
  const BlockMass* const kept = args.scratch.kept + row * blocks;
  const RowTotal all = row_total(args.scratch.all + row * blocks, blocks);
  const RowTotal total = row_total(kept, blocks);
  const Uniforms random = uniforms(args.seeds[row], args.offsets[row], Stream::kDraws,
                                   uint32_t(AwrsSampleDfa::kPatience));
  Found found;
  found.checked = AwrsSampleDfa::kPatience + args.dfa.vocabulary;
  const int64_t block = draw_block(kept, blocks, total, random.u);
  if (block >= 0) {
    const int32_t state = args.state[row];
    const uint32_t bits = automaton_bits(args.dfa, state, block);
    const Pick pick =
        draw_in_block(load_block(reader.view, block), reader.view.scale, bits, block, random.v);
    found.token = pick.token;
    found.state = args.dfa.step(state, pick.token);
    const bool weighted = args.rule.estimator != AwrsEstimator::kNone;
    found.logw = weighted ? fmin(0.0, total.log() - all.log()) : 0;
    found.status = kOk;
  }
  write(args, row, found);
}

}  // namespace

int64_t awrs_sample_dfa_scratch(const AwrsSampleDfa& op) { return Scratch(op, nullptr).bytes; }

Status awrs_sample_dfa(const AwrsSampleDfa& op, const AwrsSampleDfaOut& out, void* memory,
                       cudaStream_t stream) {
  const Scratch scratch(op, memory);
  const RowsArgs rows = rows_of(op.batch);
  const DfaArgs args{rows,       scratch,           op.dfa, op.rule, op.state, op.seeds,
                     op.offsets, op.fallback_token, out};
  const int64_t check_blocks = rows.rows * ((rows.blocks() + kRowWarps - 1) / kRowWarps);
  cudaError_t error =
      launch_row_sums(rows, nullptr, {scratch.all, scratch.kept, nullptr, nullptr}, stream);
  if (error != cudaSuccess) return {error, "row_sums"};
  return with_logits_type(rows.dtype, [&]<class T>(T) -> Status {
    const auto run = [&](void (*kernel)(DfaArgs), unsigned grid) {
      return launch(kernel, grid, kRowWarps * kWarpSize, 0, stream, args);
    };
    error = run(awrs_walk_kernel<T>, row_grid(rows.rows));
    if (error != cudaSuccess) return {error, "awrs_walk"};
    if (op.rule.budget != kNoBudget || op.rule.estimator == AwrsEstimator::kPaper) return {};
    error = run(awrs_check_kernel<T>, unsigned(check_blocks));
    if (error != cudaSuccess) return {error, "awrs_check"};
    return {run(awrs_settle_kernel<T>, row_grid(rows.rows)), "awrs_settle"};
  });
}

}  // namespace thrifty::sampling::cuda
