// verify_tree on CUDA (verify.h): the masses of all rows in one pass, then a warp per sequence
// walks from the root, with scalars per candidate; last the k largest of the rows that were asked
// for, a warp each.
#include "core/cuda/launch.h"
#include "drafting/residual.cuh"
#include "drafting/target_rows_cuda.h"
#include "drafting/verify_cuda.h"

namespace thrifty::drafting::cuda {
namespace {

struct TreeArgs {
  Target target;
  VerifyTree call;
  double* scratch;  // [B, 2, K]
  VerifyOut out;
};

template <class T>
class Walker {
 public:
  THRIFTY_DEVICE Walker(const TreeArgs& args, int64_t b)
      : a_(args),
        c_(args.call),
        b_(b),
        width_(c_.max_depth + 1),
        tokens_(c_.tokens + b * c_.nodes),
        first_child_(c_.first_child + b * c_.nodes),
        next_sibling_(c_.next_sibling + b * c_.nodes),
        seed_(c_.settings.seed ? c_.settings.seed[b] : 0),
        offset_(c_.settings.offset ? c_.settings.offset[b] : 0),
        residual_(args.scratch + b * 2 * c_.support, args.scratch + (b * 2 + 1) * c_.support) {}

  THRIFTY_DEVICE void walk() {
    int32_t status = usable() ? kGood : kBadDraft, node = 0;
    int64_t length = 0;
    while (status == kGood && node >= 0) {
      const TargetRow<T> row(a_.target, b_ * c_.logits.rows + node);
      if (!row.good()) {
        status = kBadLogits;
        break;
      }
      const bool deeper = length < c_.max_depth;
      const int64_t position = offset_ + length;
      int32_t child = -1, token = -1, last = -1;
      const int32_t* support = nullptr;
      if (c_.rule == Rule::kRecursive && deeper && first_child_[node] >= 0) {
        support = c_.q_ids + (b_ * c_.nodes + node) * c_.support;
        child = accepted_child(row, node, support, position);
        token = child >= 0 ? tokens_[child] : residual_.choose(seed_, position, last);
      } else if (c_.rule == Rule::kGreedy) {
        token = row.argmax();
      }
      if (token < 0) {
        token = row.draw_outside(support, support ? c_.support : 0, seed_, position);
        if (token < 0) token = last >= 0 ? last : row.argmax();
      }
      if (c_.rule != Rule::kRecursive && deeper) child = matching_child(node, token);
      emit(length++, token, node);
      node = child;
    }
    if (status != kGood) length = 0;  // a sequence that failed emits nothing
    for (int64_t i = length + lane_index(); i < width_; i += kWarpSize) {
      a_.out.tokens[b_ * width_ + i] = a_.out.path[b_ * width_ + i] = -1;
    }
    if (lane_index() != 0) return;
    a_.out.lengths[b_] = int32_t(length);
    a_.out.status[b_] = status;
  }

 private:
  THRIFTY_DEVICE void emit(int64_t at, int32_t token, int32_t node) const {
    if (lane_index() != 0) return;
    a_.out.tokens[b_ * width_ + at] = token;
    a_.out.path[b_ * width_ + at] = node;
  }

  // Links lead forward, to nodes that are there, have a row and a token of the vocabulary; supports
  // are distributions over distinct ids. A lane looks at every 32nd node.
  THRIFTY_DEVICE bool usable() const {
    int64_t first_free = c_.nodes;
    for (int64_t i = lane_index(); i < c_.nodes; i += kWarpSize) {
      if (tokens_[i] < 0 && i < first_free) first_free = i;
    }
    const int64_t size = -warp_max(-first_free);
    bool good = size > 0 && size <= c_.logits.rows;
    for (int64_t i = lane_index(); i < c_.nodes; i += kWarpSize) {
      if (i >= size) {
        good = good && tokens_[i] < 0;
        continue;
      }
      const auto forward = [&](int32_t to) { return to == -1 || (to > i && to < size); };
      good = good && (i == 0 || tokens_[i] < c_.logits.vocab) && forward(first_child_[i]) &&
             forward(next_sibling_[i]);
      if (c_.rule == Rule::kRecursive && good) {
        const int64_t at = (b_ * c_.nodes + i) * c_.support;
        const double sum = support_sum(c_.q_ids + at, c_.q + at, c_.support, c_.logits.vocab);
        good = sum == 0 ? first_child_[i] < 0 : sum > 0.99 && sum < 1.01;
      }
    }
    return warp_all(good);
  }

  // The recursive rule: the first child that is accepted, -1 where none is.
  THRIFTY_DEVICE int32_t accepted_child(const TargetRow<T>& row, int32_t node,
                                        const int32_t* support, int64_t position) {
    residual_.start(row, support, c_.q + (support - c_.q_ids), c_.support);
    uint32_t coin = 0;
    for (int32_t c = first_child_[node]; c >= 0; c = next_sibling_[c]) {
      if (residual_.accept(tokens_[c], uniforms(seed_, position, Stream::kCoins, coin++).u)) {
        return c;
      }
    }
    return -1;
  }

  THRIFTY_DEVICE int32_t matching_child(int32_t node, int32_t token) const {
    int32_t c = first_child_[node];
    while (c >= 0 && tokens_[c] != token) c = next_sibling_[c];
    return c;
  }

  const TreeArgs& a_;
  const VerifyTree& c_;
  const int64_t b_, width_;
  const int32_t *const tokens_, *const first_child_, *const next_sibling_;
  const int64_t seed_, offset_;
  SparseResidual<T> residual_;
};

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize, 1) tree_walk_kernel(TreeArgs args) {
  const int64_t b = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (b >= args.call.logits.batch) return;  // a whole warp; there is no barrier below
  Walker<T>(args, b).walk();
}

// Of all valid nodes, or of those on the path.
template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize) tree_top_kernel(TreeArgs args) {
  const VerifyTree& call = args.call;
  const int64_t rows = call.all_rows ? call.logits.rows : call.max_depth + 1;
  const int64_t i = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (i >= call.logits.batch * rows) return;
  const int64_t b = i / rows, at = i % rows;
  const bool valid = at < call.nodes && call.tokens[b * call.nodes + at] >= 0;
  const int64_t node = call.all_rows ? (valid ? at : -1) : args.out.path[i];
  int32_t* const ids = args.out.topk_ids + i * call.k;
  float* const probs = args.out.topk_probs + i * call.k;
  if (node >= 0) {
    const TargetRow<T> row(args.target, b * call.logits.rows + node);
    if (row.good()) return row.top(call.k, ids, probs);
  }
  TargetRow<T>::no_top(call.k, ids, probs);
}

struct Scratch {
  Carver carver;
  RowMeasures measures;
  double* residual;
  TargetLaw* laws;

  Scratch(const VerifyTree& call, void* memory)
      : carver(memory),
        measures(carver, call.logits.batch * call.logits.rows,
                 rows_of(call.logits, call.settings, 1).blocks()) {
    carver.take(residual, call.logits.batch * 2 * call.support);
    carver.take(laws, call.logits.batch * call.logits.rows);
  }
};

}  // namespace

int64_t verify_tree_scratch(const VerifyTree& call) {
  return Scratch(call, nullptr).carver.bytes();
}

LaunchStatus verify_tree(const VerifyTree& call, const VerifyOut& out, void* memory,
                         cudaStream_t stream) {
  const Scratch scratch(call, memory);
  const RowMeasures& measures = scratch.measures;
  RowsArgs rows = rows_of(call.logits, call.settings, call.logits.rows);
  const RowFilters filters = filters_of(call.settings);
  const LaunchStatus status = measure_rows(rows, filters, filters.any(), measures, stream);
  if (!status.ok()) return status;
  const Target target{rows,         measures.all, measures.kept,
                      measures.max, scratch.laws, call.rule == Rule::kGreedy};
  const cudaError_t error = launch_target_laws(target, stream);
  if (error != cudaSuccess) return {error, "target_laws"};
  const TreeArgs args{target, call, scratch.residual, out};
  return with_logits_type(rows.dtype, [&]<class T>(T) -> LaunchStatus {
    const auto run = [&](void (*kernel)(TreeArgs), int64_t warps) {
      return launch(kernel, row_grid(warps), kRowWarps * kWarpSize, 0, stream, args);
    };
    const cudaError_t error = run(tree_walk_kernel<T>, call.logits.batch);
    if (error != cudaSuccess || call.k == 0) return {error, "tree_walk"};
    const int64_t tops = call.all_rows ? call.logits.rows : call.max_depth + 1;
    return {run(tree_top_kernel<T>, call.logits.batch * tops), "tree_top"};
  });
}

}  // namespace thrifty::drafting::cuda
