// torch.ops.thrifty.*: adaptive weighted rejection sampling and resampling on the CPU.
#include <tuple>

#include "sampling/awrs_weights.h"
#include "sampling/smc_resample.h"
#include "torch/edge.h"

namespace thrifty::sampling::ops {
namespace {

using edge::OptionalTensor;
using edge::ScalarType;
using edge::Tensor;

Tensor vector(const Tensor& like, int64_t n, ScalarType dtype) {
  return torch::stable::new_empty(like, {n}, dtype);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> awrs_weights(
    const Tensor& allowed_, const Tensor& logp_, const Tensor& log_rest_, const Tensor& log_tail_,
    const OptionalTensor& coins_, const std::string& estimator, int64_t extra, int64_t budget) {
  const Tensor allowed = edge::dense(allowed_), logp = edge::dense(logp_),
               log_rest = edge::dense(log_rest_), log_tail = edge::dense(log_tail_);
  const OptionalTensor coins = edge::dense(coins_);
  const AwrsWeights problem = check_awrs_weights({.allowed = edge::array(allowed),
                                                  .logp = edge::array(logp),
                                                  .log_rest = edge::array(log_rest),
                                                  .log_tail = edge::array(log_tail),
                                                  .coins = edge::array(coins),
                                                  .estimator = estimator,
                                                  .extra = extra,
                                                  .budget = budget});
  const int64_t n = problem.rows;
  Tensor pos = vector(logp, n, ScalarType::Int), logw = edge::empty(logp, {n}),
         need_more = vector(logp, n, ScalarType::Bool),
         n_checked = vector(logp, n, ScalarType::Int);
  const AwrsWeightsOut out{static_cast<int32_t*>(edge::data(pos)), edge::data(logw),
                           static_cast<uint8_t*>(edge::data(need_more)),
                           static_cast<int32_t*>(edge::data(n_checked))};
  sampling::awrs_weights(problem, out, edge::torch_threads);
  return {pos, logw, need_more, n_checked};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> smc_resample(const Tensor& logw_, const Tensor& seeds_,
                                                        const Tensor& offsets_,
                                                        const std::string& method,
                                                        double ess_threshold) {
  const Tensor logw = edge::dense(logw_), seeds = edge::dense(seeds_),
               offsets = edge::dense(offsets_);
  const SmcResample problem = check_smc_resample({.logw = edge::array(logw),
                                                  .seeds = edge::array(seeds),
                                                  .offsets = edge::array(offsets),
                                                  .method = method,
                                                  .ess_threshold = ess_threshold});
  const int64_t p = problem.populations, n = problem.particles;
  Tensor ancestors = torch::stable::new_empty(logw, {p, n}, ScalarType::Long),
         fresh = edge::empty(logw, {p, n}), ess = edge::empty(logw, {p}),
         increment = edge::empty(logw, {p});
  const SmcResampleOut out{static_cast<int64_t*>(edge::data(ancestors)), edge::data(fresh),
                           edge::data(ess), edge::data(increment)};
  sampling::smc_resample(problem, out, edge::torch_threads);
  return {ancestors, fresh, ess, increment};
}

}  // namespace
}  // namespace thrifty::sampling::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def(
      "awrs_weights(Tensor allowed, Tensor logp, Tensor log_rest, Tensor log_tail, Tensor? coins, "
      "str estimator, int extra, int budget) "
      "-> (Tensor pos, Tensor logw, Tensor need_more, Tensor n_checked)");
  m.def(
      "smc_resample(Tensor logw, Tensor seeds, Tensor offsets, str method, float ess_threshold) "
      "-> (Tensor ancestors, Tensor logw_new, Tensor ess, Tensor log_ml_increment)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  m.impl("awrs_weights", TORCH_BOX(&thrifty::sampling::ops::awrs_weights));
  m.impl("smc_resample", TORCH_BOX(&thrifty::sampling::ops::smc_resample));
}
