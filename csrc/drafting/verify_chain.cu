// verify_chain on CUDA (verify.h), a warp per sequence after the masses of all rows.
//
// With a dense q the sums of max(share p - q, 0) over the vocabulary come first, a warp per block
// of every row. They need `share`, the joint ratio of block verification, which is a product of
// scalars along the chain and is found before them; token by token it is 1.
#include "core/cuda/launch.h"
#include "drafting/residual.cuh"
#include "drafting/target_rows_cuda.h"
#include "drafting/verify_cuda.h"

namespace thrifty::drafting::cuda {
namespace {

// Of one block of a row: sums of max(share p - q, 0) and of q.
struct Excess {
  double left, q;
};

struct ChainArgs {
  Target target;
  VerifyChain call;
  double* scratch;  // [B, 2, K], sparse q
  double* shares;   // [B, n + 1]: joint ratio before row i
  Excess* excess;   // [B, n, blocks], dense q
  VerifyOut out;
};

// A sequence's part of the arguments.
struct ChainView {
  const VerifyChain& call;
  int64_t b, length;
  const int32_t* tokens;

  THRIFTY_DEVICE ChainView(const VerifyChain& call, int64_t b)
      : call(call),
        b(b),
        length(call.lens ? call.lens[b] : call.length),
        tokens(call.tokens + b * call.length) {}

  THRIFTY_DEVICE bool sparse() const { return call.q_ids != nullptr; }
  THRIFTY_DEVICE int64_t row(int64_t i) const { return b * (call.length + 1) + i; }
  THRIFTY_DEVICE const int32_t* q_ids(int64_t i) const {
    return call.q_ids + (b * call.length + i) * call.support;
  }
  // Of the support, or of the vocabulary.
  THRIFTY_DEVICE const float* q(int64_t i) const {
    return call.q + (b * call.length + i) * call.support;
  }

  // q of the i-th drafted token.
  THRIFTY_DEVICE double drafted_q(int64_t i) const {
    if (!sparse()) return double(q(i)[tokens[i]]);
    double found = 0;
    for (int64_t j = lane_index(); j < call.support; j += kWarpSize) {
      if (q_ids(i)[j] == tokens[i]) found = double(q(i)[j]);
    }
    return warp_max(found);
  }

  // Tokens of the vocabulary, and distributions that can be read. Sums of a dense q are looked at
  // where they are taken. All lanes call.
  THRIFTY_DEVICE bool usable() const {
    if (length < 0 || length > call.length) return false;
    bool good = true;
    for (int64_t i = lane_index(); i < length; i += kWarpSize) {
      const bool inside = tokens[i] >= 0 && tokens[i] < call.logits.vocab;
      good = good && inside;
      if (!inside || !call.q) continue;
      if (sparse()) {
        const double sum = support_sum(q_ids(i), q(i), call.support, call.logits.vocab);
        good = good && sum > 0.99 && sum < 1.01;
      } else {
        good = good && q(i)[tokens[i]] >= 0;
      }
    }
    return warp_all(good);
  }
};

// p_0 = 1, p_i = min(p_{i-1} p(x_i) / q(x_i), 1), into shares; 0 from where the chain cannot go on.
template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1) chain_shares_kernel(ChainArgs args) {
  const int64_t b = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (b >= args.call.logits.batch) return;  // a whole warp; there is no barrier below
  const ChainView chain(args.call, b);
  const bool usable = chain.usable();
  double joint = usable ? 1 : 0;
  for (int64_t i = 0; i <= args.call.length; ++i) {
    if (lane_index() == 0) args.shares[chain.row(i)] = joint;
    if (!(joint > 0) || i >= chain.length) {
      joint = 0;
      continue;
    }
    const TargetRow<T> row(args.target, chain.row(i));
    const double q = chain.drafted_q(i);
    const double ratio = row.good() && q > 0 ? joint * row.prob(chain.tokens[i]) / q : 0;
    joint = args.call.block ? fmin(ratio, 1.0) : 1;
  }
}

// max(share p - q, 0) of the lane's tokens of a block; 0 beyond the vocabulary.
template <class T>
struct BlockExcess {
  typename TargetRow<T>::BlockProbs probs;
  const float* q;
  int64_t vocab;
  double share;

  THRIFTY_DEVICE double of(const BlockValues& values, int i) const {
    const int64_t token = token_of(probs.block, i);
    if (token >= vocab) return 0;
    return fmax(share * double(probs.of(values, i)) - double(load_readonly(q + token)), 0.0);
  }
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) chain_excess_kernel(ChainArgs args) {
  const int64_t blocks = args.target.rows.blocks(), n = args.call.length;
  const int64_t at = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (at >= args.call.logits.batch * n * blocks) return;
  const int64_t b = at / (n * blocks), i = at / blocks % n, block = at % blocks;
  const ChainView chain(args.call, b);
  const double share = args.shares[chain.row(i)];
  const TargetRow<T> row(args.target, chain.row(i));
  double left = 0, mass = 0;
  if (share > 0 && row.good()) {
    const float* const q = chain.q(i);
    const BlockValues values = load_block(row.view(), block);
    const BlockExcess<T> excess{row.probs(values, block), q, row.vocab(), share};
#pragma unroll
    for (int v = 0; v < kLaneValues; ++v) {
      left += excess.of(values, v);
      const int64_t token = token_of(block, v);
      if (token < row.vocab()) mass += double(load_readonly(q + token));
    }
  }
  left = warp_sum(left), mass = warp_sum(mass);
  if (lane_index() == 0) args.excess[at] = {left, mass};
}

template <class T>
class Chain {
 public:
  THRIFTY_DEVICE Chain(const ChainArgs& args, int64_t b)
      : a_(args),
        c_(args.call, b),
        seed_(args.call.settings.seed ? args.call.settings.seed[b] : 0),
        offset_(args.call.settings.offset ? args.call.settings.offset[b] : 0),
        sparse_(args.scratch + b * 2 * args.call.support,
                args.scratch + (b * 2 + 1) * args.call.support) {}

  THRIFTY_DEVICE void walk() {
    status_ = c_.usable() ? kGood : kBadDraft;
    int64_t accepted = 0;
    int32_t last = -1;
    while (status_ == kGood) {
      const Ending ending =
          c_.call.block && c_.call.q ? block_wise(accepted) : token_wise(accepted);
      if (status_ != kGood) break;
      last = draw(ending, accepted);
      // Without q a token is drawn first, and the drafted one is taken where it is the same.
      const bool same = !c_.call.q && accepted < c_.length && last == c_.tokens[accepted];
      if (!same) break;
      ++accepted;
    }
    const int64_t length = status_ == kGood ? accepted + 1 : 0, width = c_.call.length + 1;
    for (int64_t i = lane_index(); i < width; i += kWarpSize) {
      const int64_t at = c_.b * width + i;
      a_.out.tokens[at] = i >= length ? -1 : i < accepted ? c_.tokens[i] : last;
      a_.out.path[at] = i < length ? int32_t(i) : -1;
    }
    if (lane_index() != 0) return;
    a_.out.lengths[c_.b] = int32_t(length);
    a_.out.status[c_.b] = status_;
  }

 private:
  THRIFTY_DEVICE TargetRow<T> open(int64_t i) {
    const TargetRow<T> row(a_.target, c_.row(i));
    if (!row.good()) status_ = kBadLogits;
    return row;
  }

  // How the token behind the accepted ones is drawn: from p, from what is left of it where q is
  // sparse, or where it is dense.
  struct Ending {
    enum { kPlain, kSparse, kDense } kind = kPlain;
    double share = 1;
  };

  THRIFTY_DEVICE int32_t draw(const Ending& ending, int64_t i) {
    const TargetRow<T> row = open(i);
    const int64_t position = offset_ + i;
    int32_t token = -1, last = -1;
    const int32_t* support = nullptr;
    if (ending.kind == Ending::kSparse) {
      support = c_.q_ids(i);
      token = sparse_.choose(seed_, position, last);
    } else if (ending.kind == Ending::kDense) {
      token = draw_dense(row, i, ending.share, position);
    }
    if (token >= 0 || status_ != kGood) return token;
    token = row.draw_outside(support, support ? c_.call.support : 0, seed_, position);
    return token >= 0 ? token : last >= 0 ? last : row.argmax();
  }

  // Each token by itself.
  THRIFTY_DEVICE Ending token_wise(int64_t& accepted) {
    for (;; ++accepted) {
      const int64_t i = accepted;
      const TargetRow<T> row = open(i);
      if (status_ != kGood || i == c_.length || !c_.call.q) return {};
      const double coin = uniforms(seed_, offset_ + i, Stream::kCoins, 0).u;
      if (c_.sparse()) {
        sparse_.start(row, c_.q_ids(i), c_.q(i), c_.call.support);
        if (!sparse_.accept(c_.tokens[i], coin)) return {Ending::kSparse};
        continue;
      }
      const double share = c_.drafted_q(i);
      if (!(share > 0)) return {};  // q cannot have given it
      if (!(coin * share < row.prob(c_.tokens[i]))) return {Ending::kDense};
    }
  }

  // The sum of the row's excess; NaN when q is no distribution.
  THRIFTY_DEVICE double dense_sum(int64_t i) const {
    const int64_t blocks = a_.target.rows.blocks();
    const Excess* const parts = a_.excess + (c_.b * c_.call.length + i) * blocks;
    double left = 0, mass = 0;
    for (int64_t block = lane_index(); block < blocks; block += kWarpSize) {
      left += parts[block].left, mass += parts[block].q;
    }
    left = warp_sum(left), mass = warp_sum(mass);
    return fabs(mass - 1) < 0.01 ? left : NAN;
  }

  // The first token whose running sum passes u times the whole; -1 where p <= q up to rounding.
  THRIFTY_DEVICE int32_t draw_dense(const TargetRow<T>& row, int64_t i, double share,
                                    int64_t position) {
    const double whole = dense_sum(i);
    if (whole != whole) {
      status_ = kBadDraft;
      return -1;
    }
    const int64_t blocks = a_.target.rows.blocks();
    const Excess* const parts = a_.excess + (c_.b * c_.call.length + i) * blocks;
    const double target = uniforms(seed_, position, Stream::kCoins, kResidualCoin).u * whole;
    Search outer(target);
    for (int64_t batch = 0; batch * kWarpSize < blocks && !outer.found(); ++batch) {
      const int64_t block = batch * kWarpSize + lane_index();
      outer.offer(block < blocks ? parts[block].left : 0, int(batch));
    }
    if (outer.batch() < 0) return -1;
    const int64_t block = int64_t(outer.batch()) * kWarpSize + outer.lane();
    const BlockValues values = load_block(row.view(), block);
    const BlockExcess<T> excess{row.probs(values, block), c_.q(i), row.vocab(), share};
    Search inner(target - outer.base());
#pragma unroll
    for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
      double sum = 0;
#pragma unroll
      for (int j = 0; j < kLaneTokens; ++j) sum += excess.of(values, chunk * kLaneTokens + j);
      inner.offer(sum, chunk);
    }
    double sum = inner.base();
    int32_t token = -1;
    bool passed = false;
#pragma unroll
    for (int v = 0; v < kLaneValues; ++v) {
      const double part = v / kLaneTokens == inner.batch() ? excess.of(values, v) : 0;
      sum += part;
      if (part > 0 && !passed) {
        token = int32_t(token_of(block, v));
        passed = sum > target - outer.base();
      }
    }
    return shfl(token, inner.lane());
  }

  // The last i with coin u_i < h_i is taken, h_n = p_n, else h_i = r_i / (r_i + 1 - p_i), r_i the
  // sum of max(p_i p - q, 0) at the row behind x_i. Coins are all those of the first position: of
  // later ones the next call may be the owner.
  THRIFTY_DEVICE Ending block_wise(int64_t& accepted) {
    double joint_accepted = 1;
    open(0);
    for (int64_t i = 0; i < c_.length && status_ == kGood; ++i) {
      const double joint = a_.shares[c_.row(i + 1)];
      if (!(joint > 0)) break;
      const TargetRow<T> row = open(i + 1);
      if (status_ != kGood) return {};
      double chance = joint;
      if (i + 1 < c_.length) {
        const double left = c_.sparse() ? subtract(row, i + 1, joint) : dense_sum(i + 1);
        if (left != left) {
          status_ = kBadDraft;
          return {};
        }
        chance = left > 0 ? left / (left + 1 - joint) : 0;
      }
      const double coin = uniforms(seed_, offset_, Stream::kCoins, uint32_t(i)).u;
      if (coin < chance) accepted = i + 1, joint_accepted = joint;
    }
    if (status_ != kGood || accepted == c_.length) return {};
    if (!c_.sparse()) return {Ending::kDense, joint_accepted};
    subtract(open(accepted), accepted, joint_accepted);
    return {Ending::kSparse};
  }

  THRIFTY_DEVICE double subtract(const TargetRow<T>& row, int64_t i, double share) {
    sparse_.start(row, c_.q_ids(i), c_.q(i), c_.call.support);
    return sparse_.subtract(share);
  }

  const ChainArgs& a_;
  const ChainView c_;
  const int64_t seed_, offset_;
  SparseResidual<T> sparse_;
  int32_t status_ = kGood;
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1) chain_walk_kernel(ChainArgs args) {
  const int64_t b = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (b >= args.call.logits.batch) return;
  Chain<T>(args, b).walk();
}

// Of the rows of the emitted tokens.
template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) chain_top_kernel(ChainArgs args) {
  const VerifyChain& call = args.call;
  const int64_t i = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (i >= call.logits.batch * (call.length + 1)) return;
  int32_t* const ids = args.out.topk_ids + i * call.k;
  float* const probs = args.out.topk_probs + i * call.k;
  if (args.out.path[i] >= 0) {
    TargetRow<T>(args.target, i).top(call.k, ids, probs);
  } else {
    TargetRow<T>::no_top(call.k, ids, probs);
  }
}

struct Scratch {
  Carver carver;
  RowMeasures measures;
  TargetLaw* laws;
  double *residual, *shares;
  Excess* excess;
  int64_t excess_warps;

  Scratch(const VerifyChain& call, void* memory)
      : carver(memory),
        measures(carver, call.logits.batch * call.logits.rows,
                 rows_of(call.logits, call.settings, 1).blocks()) {
    const int64_t rows = call.logits.batch * call.logits.rows;
    const bool dense = call.q && !call.q_ids;
    excess_warps =
        dense ? call.logits.batch * call.length * rows_of(call.logits, call.settings, 1).blocks()
              : 0;
    carver.take(laws, rows);
    carver.take(residual, dense ? 0 : call.logits.batch * 2 * call.support);
    carver.take(shares, rows);
    carver.take(excess, excess_warps);
  }
};

}  // namespace

int64_t verify_chain_scratch(const VerifyChain& call) {
  return Scratch(call, nullptr).carver.bytes();
}

LaunchStatus verify_chain(const VerifyChain& call, const VerifyOut& out, void* memory,
                          cudaStream_t stream) {
  const Scratch scratch(call, memory);
  const RowMeasures& measures = scratch.measures;
  RowsArgs rows = rows_of(call.logits, call.settings, call.logits.rows);
  const RowFilters filters = filters_of(call.settings);
  const LaunchStatus status = measure_rows(rows, filters, filters.any(), measures, stream);
  if (!status.ok()) return status;
  const Target target{rows, measures.all, measures.kept, measures.max, scratch.laws};
  cudaError_t error = launch_target_laws(target, stream);
  if (error != cudaSuccess) return {error, "target_laws"};
  const ChainArgs args{target, call, scratch.residual, scratch.shares, scratch.excess, out};
  return with_logits_type(rows.dtype, [&]<class T>(T) -> LaunchStatus {
    const auto run = [&](void (*kernel)(ChainArgs), int64_t warps) {
      return launch(kernel, row_grid(warps), kRowWarps * kWarpSize, 0, stream, args);
    };
    if (call.q) {
      error = run(chain_shares_kernel<T>, call.logits.batch);
      if (error != cudaSuccess) return {error, "chain_shares"};
    }
    if (scratch.excess_warps > 0) {
      error = run(chain_excess_kernel<T>, scratch.excess_warps);
      if (error != cudaSuccess) return {error, "chain_excess"};
    }
    error = run(chain_walk_kernel<T>, call.logits.batch);
    if (error != cudaSuccess || call.k == 0) return {error, "chain_walk"};
    return {run(chain_top_kernel<T>, call.logits.batch * (call.length + 1)), "chain_top"};
  });
}

}  // namespace thrifty::drafting::cuda
