// awrs_weights and awrs_coins on CUDA: a thread per row, the CPU's walk (awrs_walk.h).
#include "core/cuda/launch.h"
#include "core/logits.h"
#include "sampling/awrs_cuda.h"

namespace thrifty::sampling::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kThreads = 128;

template <class T>
__global__ void __launch_bounds__(kThreads)
    awrs_weights_kernel(AwrsWeights problem, AwrsWeightsOut out) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= problem.rows) return;
  const int64_t start = row * problem.k;
  const T* const logp = static_cast<const T*>(problem.logp) + start;
  const T* const log_rest = static_cast<const T*>(problem.log_rest) + start;
  AwrsWalk walk(problem.rule);
  bool stopped = false;  // a verdict is not known yet, or a coin ended the walk
  for (int64_t j = 0; j < problem.k && !stopped && !walk.done(); ++j) {
    if (logp[j] == -INFINITY) break;  // padding after the last token with mass
    stopped = problem.coins && walk.coin_ends(log_rest[j], problem.coins[start + j]);
    if (stopped) break;
    const uint8_t allowed = problem.allowed[start + j];
    stopped = allowed > kAllowed;
    if (!stopped) walk.see(allowed == kAllowed, logp[j], log_rest[j]);
  }
  const bool none_left = static_cast<const T*>(problem.log_tail)[row] == -INFINITY;
  if (!stopped && none_left) walk.end_of_order();
  out.pos[row] = int32_t(walk.position());
  static_cast<T*>(out.logw)[row] = T(walk.log_weight());
  out.need_more[row] = !walk.done();
  out.n_checked[row] = int32_t(walk.needed());
}

__global__ void __launch_bounds__(kThreads)
    awrs_coins_kernel(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                      double* coins) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * k) return;
  coins[i] = uniforms(seeds[i / k], offsets[i / k], Stream::kCoins, uint32_t(i % k)).u;
}

unsigned grid_of(int64_t threads) { return unsigned((threads + kThreads - 1) / kThreads); }

}  // namespace

Status awrs_weights(const AwrsWeights& problem, const AwrsWeightsOut& out, cudaStream_t stream) {
  const auto kernel =
      problem.dtype == Dtype::kFloat32 ? awrs_weights_kernel<float> : awrs_weights_kernel<double>;
  return {launch(kernel, grid_of(problem.rows), kThreads, 0, stream, problem, out), "awrs_weights"};
}

Status awrs_coins(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                  double* coins, cudaStream_t stream) {
  return {launch(awrs_coins_kernel, grid_of(rows * k), kThreads, 0, stream, seeds, offsets, rows, k,
                 coins),
          "awrs_coins"};
}

}  // namespace thrifty::sampling::cuda
