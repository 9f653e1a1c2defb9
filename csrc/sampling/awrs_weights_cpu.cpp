// awrs_weights on the CPU: one walk per row.
#include <algorithm>
#include <cmath>

#include "sampling/awrs_weights.h"

namespace thrifty::sampling {
namespace {

template <class T>
AwrsWalk walk_row(const AwrsWeights& problem, int64_t row, bool& unknown) {
  const int64_t start = row * problem.k;
  const uint8_t* allowed = problem.allowed + start;
  const T* logp = static_cast<const T*>(problem.logp) + start;
  const T* log_rest = static_cast<const T*>(problem.log_rest) + start;
  const T log_tail = static_cast<const T*>(problem.log_tail)[row];
  AwrsWalk walk(problem.rule);
  for (int64_t j = 0; j < problem.k; ++j) {
    if (walk.done()) return walk;
    if (logp[j] == -INFINITY) break;  // padding after the last token with mass
    if (problem.coins != nullptr && walk.coin_ends(log_rest[j], problem.coins[start + j])) {
      return walk;
    }
    unknown = allowed[j] > kAllowed;
    if (unknown) return walk;
    walk.see(allowed[j] == kAllowed, logp[j], log_rest[j]);
  }
  if (log_tail == -INFINITY) walk.end_of_order();
  return walk;
}

template <class T>
void run_row(const AwrsWeights& problem, const AwrsWeightsOut& out, int64_t row) {
  bool unknown = false;
  const AwrsWalk walk = walk_row<T>(problem, row, unknown);
  out.pos[row] = int32_t(walk.position());
  static_cast<T*>(out.logw)[row] = T(walk.log_weight());
  out.need_more[row] = !walk.done();
  out.n_checked[row] = int32_t(walk.needed());
}

}  // namespace

void awrs_weights(const AwrsWeights& problem, const AwrsWeightsOut& out, ParallelFor parallel) {
  constexpr int64_t kRowsPerTask = 256;  // a walk takes 0.1 us
  const int64_t tasks = (problem.rows + kRowsPerTask - 1) / kRowsPerTask;
  for_each(parallel, tasks, [&](int64_t task) {
    const int64_t end = std::min(problem.rows, (task + 1) * kRowsPerTask);
    for (int64_t row = task * kRowsPerTask; row < end; ++row) {
      problem.dtype == Dtype::kFloat32 ? run_row<float>(problem, out, row)
                                       : run_row<double>(problem, out, row);
    }
  });
}

}  // namespace thrifty::sampling
