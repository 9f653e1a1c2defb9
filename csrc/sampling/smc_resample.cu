// smc_resample on CUDA (smc_resample.h): a warp per population, in float64 as on the CPU.
#include "core/cuda/launch.h"
#include "core/row_mass.cuh"
#include "sampling/awrs_cuda.h"
#include "sampling/rows_cuda.h"

namespace thrifty::sampling::cuda {
namespace {

using namespace thrifty::cuda;

// Calls body(i, active) for i = lane, lane + 32, ...; all lanes take part in every step.
template <class Body>
THRIFTY_DEVICE void for_lanes(int64_t n, const Body& body) {
  for (int64_t first = 0; first < n; first += kWarpSize) {
    const int64_t i = first + lane_index();
    body(i, i < n);
  }
}

// Positions u in [0, 1) of a cumulative sum, which lies in the caller's memory.
struct Wheel {
  const double* cumulative;
  int64_t n, last;  // the last with mass
  double total;

  // A particle without mass has the sum of the one before it, so it is never found.
  THRIFTY_DEVICE int64_t find(double u) const {
    int64_t low = 0, high = n;  // the first whose sum is above
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (cumulative[middle] > u * total) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low < last ? low : last;
  }
};

// mass[n] becomes its cumulative sum.
THRIFTY_DEVICE Wheel make_wheel(double* mass, int64_t n) {
  double total = 0;
  int64_t last = 0;
  for_lanes(n, [&](int64_t i, bool active) {
    const double own = active ? mass[i] : 0;
    const double sum = total + (warp_prefix(own) + own);
    if (active) mass[i] = sum;
    if (own > 0) last = i;
    total = shfl(sum, kWarpSize - 1);
  });
  syncwarp();
  return {mass, n, warp_max(last), total};
}

THRIFTY_DEVICE void draw(const Wheel& wheel, Resampling method, int64_t seed, int64_t offset,
                         int64_t n, int64_t* ancestors) {
  const bool free = method == Resampling::kMultinomial || method == Resampling::kResidual;
  for (int64_t i = lane_index(); i < n; i += kWarpSize) {
    const auto index = uint32_t(method == Resampling::kSystematic ? 0 : i);
    const double u = uniforms(seed, offset, Stream::kResampling, index).u;
    ancestors[i] = wheel.find(free ? u : (double(i) + u) / double(n));
  }
}

// floor(N W_j) copies each; what is left over stays in `mass` to be drawn from. Returns how many
// ancestors are settled.
THRIFTY_DEVICE int64_t copy_whole(double* mass, double sum, int64_t n, int64_t* ancestors) {
  int64_t filled = 0;
  for_lanes(n, [&](int64_t j, bool active) {
    const double expected = active ? double(n) * mass[j] / sum : 0;
    const auto wanted = int64_t(expected);
    const int64_t before = filled + int64_t(warp_prefix(double(wanted)));  // exact below 2^53
    const int64_t room = before < n ? n - before : 0, copies = wanted < room ? wanted : room;
    for (int64_t c = 0; c < copies; ++c) ancestors[before + c] = j;
    if (active) mass[j] = fmax(0.0, expected - double(copies));
    filled = shfl(before + copies, kWarpSize - 1);
  });
  syncwarp();
  return filled;
}

template <class T>
__global__ void __launch_bounds__(kRowWarps* kWarpSize)
    smc_resample_kernel(SmcResample problem, SmcResampleOut out, double* scratch) {
  const int64_t p = int64_t(blockIdx.x) * kRowWarps + warp_index();
  if (p >= problem.populations) return;  // a whole warp; there is no barrier below
  const int64_t n = problem.particles;
  const T* const logw = static_cast<const T*>(problem.logw) + p * n;
  T* const new_logw = static_cast<T*>(out.logw) + p * n;
  int64_t* const ancestors = out.ancestors + p * n;
  double* const mass = scratch + p * n;
  double highest = -INFINITY;
  bool nan = false;
  for (int64_t i = lane_index(); i < n; i += kWarpSize) {
    highest = fmax(highest, double(logw[i]));
    nan = nan || logw[i] != logw[i];
  }
  highest = warp_max(highest);
  nan = warp_any(nan) || highest == INFINITY;
  double sum = 0, squares = 0;
  for (int64_t i = lane_index(); i < n; i += kWarpSize) {
    const double m = highest == -INFINITY ? 0 : exp(double(logw[i]) - highest);
    mass[i] = m, sum += m, squares += m * m;
  }
  sum = warp_sum(sum), squares = warp_sum(squares);
  const double ess = nan ? NAN : sum > 0 ? sum * sum / squares : 0;
  const bool resample = !nan && sum > 0 && ess < problem.ess_threshold * double(n);
  for (int64_t i = lane_index(); i < n; i += kWarpSize) {
    if (!resample) ancestors[i] = i;
    new_logw[i] = resample ? T(0) : logw[i];
  }
  if (lane_index() == 0) {
    static_cast<T*>(out.ess)[p] = T(ess);
    static_cast<T*>(out.log_ml_increment)[p] =
        resample ? T(highest + ::log(sum / double(n))) : T(0);
  }
  if (!resample) return;
  syncwarp();
  const bool residual = problem.method == Resampling::kResidual;
  const int64_t filled = residual ? copy_whole(mass, sum, n, ancestors) : 0;
  if (filled >= n) return;
  draw(make_wheel(mass, n), problem.method, problem.seeds[p], problem.offsets[p], n - filled,
       ancestors + filled);
}

}  // namespace

int64_t smc_resample_scratch(const SmcResample& problem) {
  return problem.populations * problem.particles * int64_t(sizeof(double));
}

Status smc_resample(const SmcResample& problem, const SmcResampleOut& out, void* scratch,
                    cudaStream_t stream) {
  const auto kernel =
      problem.dtype == Dtype::kFloat32 ? smc_resample_kernel<float> : smc_resample_kernel<double>;
  return {launch(kernel, row_grid(problem.populations), kRowWarps * kWarpSize, 0, stream, problem,
                 out, static_cast<double*>(scratch)),
          "smc_resample"};
}

}  // namespace thrifty::sampling::cuda
