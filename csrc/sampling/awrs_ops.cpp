// torch.ops.thrifty.*: adaptive weighted rejection sampling and resampling on the CPU.
#include "sampling/awrs_ops.h"

namespace thrifty::sampling::ops {
namespace {

struct Cpu : edge::CpuTensors {
  static void sample_candidates(const SampleCandidates& op, const Tensor&,
                                const SampleCandidatesOut& out) {
    sampling::sample_candidates(op, out, edge::torch_threads);
  }
  static void awrs_coins(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                         const Tensor&, double* coins) {
    sampling::awrs_coins(seeds, offsets, rows, k, coins);
  }
  static void awrs_weights(const AwrsWeights& op, const Tensor&, const AwrsWeightsOut& out) {
    sampling::awrs_weights(op, out, edge::torch_threads);
  }
  static void awrs_sample_dfa(const AwrsSampleDfa& op, const Tensor&, const AwrsSampleDfaOut& out) {
    sampling::awrs_sample_dfa(op, out, edge::torch_threads);
  }
  static void smc_resample(const SmcResample& op, const Tensor&, const SmcResampleOut& out) {
    sampling::smc_resample(op, out, edge::torch_threads);
  }
};

}  // namespace
}  // namespace thrifty::sampling::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def(
      "sample_candidates(Tensor logits, int k, Tensor? bitmask, Tensor? mask_rows, "
      "Tensor? inv_temperature, Tensor? drawn, Tensor seeds, Tensor offsets) -> (Tensor ids, "
      "Tensor logp, Tensor log_rest, Tensor log_tail, Tensor lse, Tensor status)");
  m.def("awrs_coins(Tensor seeds, Tensor offsets, int k) -> Tensor");
  m.def(
      "awrs_sample_dfa(Tensor logits, Tensor next, Tensor accepting, Tensor tok_offsets, "
      "Tensor tok_bytes, Tensor eos_ids, Tensor state, Tensor? inv_temperature, Tensor seeds, "
      "Tensor offsets, str estimator, int extra, int budget, int fallback_token) -> (Tensor token, "
      "Tensor logw, Tensor new_state, Tensor n_checked, Tensor status)");
  m.def(
      "awrs_weights(Tensor allowed, Tensor logp, Tensor log_rest, Tensor log_tail, Tensor? coins, "
      "str estimator, int extra, int budget) "
      "-> (Tensor pos, Tensor logw, Tensor need_more, Tensor n_checked)");
  m.def(
      "smc_resample(Tensor logw, Tensor seeds, Tensor offsets, str method, float ess_threshold) "
      "-> (Tensor ancestors, Tensor logw_new, Tensor ess, Tensor log_ml_increment)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  THRIFTY_IMPL_AWRS_OPS(m, thrifty::sampling::ops::Cpu);
}
