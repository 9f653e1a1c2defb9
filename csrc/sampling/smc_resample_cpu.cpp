// smc_resample: checks, and one task per population, in float64.
#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "core/logits.h"
#include "sampling/smc_resample.h"

namespace thrifty::sampling {
namespace {

constexpr const char* kOp = "smc_resample";

struct Uniform {
  int64_t seed, offset;

  double operator()(int64_t index) const {
    return uniforms(seed, offset, Stream::kResampling, uint32_t(index)).u;
  }
};

// Positions u in [0, 1) of a cumulative sum, ascending or not.
class Wheel {
 public:
  explicit Wheel(const std::vector<double>& mass) : cumulative_(mass.size()) {
    double sum = 0;
    for (size_t i = 0; i < mass.size(); ++i) {
      cumulative_[i] = sum += mass[i];
      if (mass[i] > 0) last_ = int64_t(i);
    }
  }
  double total() const { return cumulative_.back(); }
  // A particle without mass never has a larger sum than the one before it, so it is never found.
  int64_t find(double u) const {
    const auto above = std::upper_bound(cumulative_.begin(), cumulative_.end(), u * total());
    return std::min(last_, int64_t(above - cumulative_.begin()));
  }

 private:
  std::vector<double> cumulative_;
  int64_t last_ = 0;
};

void draw(const Wheel& wheel, Resampling method, const Uniform& uniform, int64_t n,
          int64_t* ancestors) {
  for (int64_t i = 0; i < n; ++i) {
    const double u = uniform(method == Resampling::kSystematic ? 0 : i);
    const bool free = method == Resampling::kMultinomial || method == Resampling::kResidual;
    ancestors[i] = wheel.find(free ? u : (double(i) + u) / double(n));
  }
}

// floor(N W_j) copies each; what is left over is drawn from the fractions.
void draw_residual(std::vector<double> mass, double total, const Uniform& uniform, int64_t n,
                   int64_t* ancestors) {
  int64_t filled = 0;
  for (size_t j = 0; j < mass.size(); ++j) {
    const double expected = double(n) * mass[j] / total;
    const int64_t copies = std::min(int64_t(expected), n - filled);
    std::fill_n(ancestors + filled, copies, int64_t(j));
    filled += copies;
    mass[j] = std::max(0.0, expected - double(copies));
  }
  if (filled < n) draw(Wheel(mass), Resampling::kResidual, uniform, n - filled, ancestors + filled);
}

template <class T>
void run_population(const SmcResample& problem, const SmcResampleOut& out, int64_t p) {
  const int64_t n = problem.particles;
  const T* logw = static_cast<const T*>(problem.logw) + p * n;
  int64_t* ancestors = out.ancestors + p * n;
  T* new_logw = static_cast<T*>(out.logw) + p * n;
  T& ess = static_cast<T*>(out.ess)[p];
  T& increment = static_cast<T*>(out.log_ml_increment)[p];
  for (int64_t i = 0; i < n; ++i) ancestors[i] = i;
  std::copy_n(logw, n, new_logw);
  increment = 0;
  const double highest = n > 0 ? double(*std::max_element(logw, logw + n)) : -INFINITY;
  bool nan = highest == INFINITY;
  std::vector<double> mass(static_cast<size_t>(n));
  double sum = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) {
    nan = nan || std::isnan(logw[i]);
    const double m = highest == -INFINITY ? 0 : std::exp(double(logw[i]) - highest);
    mass[size_t(i)] = m, sum += m, squares += m * m;
  }
  if (nan) {  // nothing sensible can be drawn: the weights stay as they came, and ess says so
    ess = T(NAN);
    return;
  }
  const double exact = sum > 0 ? sum * sum / squares : 0;
  ess = T(exact);
  if (sum == 0 || !(exact < problem.ess_threshold * double(n))) return;
  const Uniform uniform{problem.seeds[p], problem.offsets[p]};
  if (problem.method == Resampling::kResidual) {
    draw_residual(mass, sum, uniform, n, ancestors);
  } else {
    draw(Wheel(mass), problem.method, uniform, n, ancestors);
  }
  std::fill_n(new_logw, n, T(0));
  increment = T(highest + std::log(sum / double(n)));
}

void check_ids(const char* name, const Array& a, int64_t populations) {
  THRIFTY_CHECK(a.dtype == Dtype::kInt64 && a.ndim == 1 && a.shape[0] == populations, kOp, ": ",
                name, ": expected int64 of shape (", populations, ",), got ", dtype_name(a.dtype),
                " ", shape_text(a));
}

}  // namespace

SmcResample check_smc_resample(const SmcResampleArgs& args) {
  SmcResample problem;
  THRIFTY_CHECK(args.logw.ndim == 2, kOp, ": logw: expected shape (P, N), got ",
                shape_text(args.logw));
  problem.dtype = args.logw.dtype;
  THRIFTY_CHECK(problem.dtype == Dtype::kFloat32 || problem.dtype == Dtype::kFloat64, kOp,
                ": logw: expected float32 or float64, got ", dtype_name(problem.dtype));
  problem.populations = args.logw.shape[0], problem.particles = args.logw.shape[1];
  THRIFTY_CHECK(problem.particles < int64_t(1) << 32, kOp,
                ": logw: expected fewer than 2^32 particles, got ", shape_text(args.logw));
  check_ids("seeds", args.seeds, problem.populations);
  check_ids("offsets", args.offsets, problem.populations);
  constexpr std::string_view kNames[] = {"stratified", "systematic", "multinomial", "residual"};
  const auto found = std::find(std::begin(kNames), std::end(kNames), args.method);
  THRIFTY_CHECK(found != std::end(kNames), kOp,
                ": method: expected stratified, systematic, multinomial or residual, got ",
                args.method);
  problem.method = Resampling(found - std::begin(kNames));
  THRIFTY_CHECK(args.ess_threshold >= 0, kOp,
                ": ess_threshold: expected a share of N, at least 0, got ", args.ess_threshold);
  problem.ess_threshold = args.ess_threshold;
  problem.logw = args.logw.data;
  problem.seeds = static_cast<const int64_t*>(args.seeds.data);
  problem.offsets = static_cast<const int64_t*>(args.offsets.data);
  return problem;
}

void smc_resample(const SmcResample& problem, const SmcResampleOut& out, ParallelFor parallel) {
  for_each(parallel, problem.populations, [&](int64_t p) {
    problem.dtype == Dtype::kFloat32 ? run_population<float>(problem, out, p)
                                     : run_population<double>(problem, out, p);
  });
}

}  // namespace thrifty::sampling
