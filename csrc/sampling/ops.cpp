// torch.ops.thrifty.*: masks, filters and draws on the CPU.
#include "sampling/mask_ops.h"

namespace thrifty::sampling::ops {
namespace {

struct Cpu : edge::CpuTensors {
  static void apply_token_bitmask(const ApplyBitmask& op, const Tensor&) {
    sampling::apply_token_bitmask(op, edge::torch_threads);
  }
  static void masked_sample(const MaskedSample& op, const Tensor&, const MaskedSampleOut& out) {
    sampling::masked_sample(op, out, edge::torch_threads);
  }
  static void filter_threshold(const FilterThreshold& op, const Tensor&,
                               const FilterThresholdOut& out) {
    sampling::filter_threshold(op, out, edge::torch_threads);
  }
};

}  // namespace
}  // namespace thrifty::sampling::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def(
      "apply_token_bitmask_(Tensor(a!) logits, Tensor bitmask, Tensor? indices, Tensor? row_map, "
      "int? vocab_size) -> ()");
  m.def(
      "masked_sample(Tensor logits, Tensor? bitmask, Tensor? mask_rows, Tensor? inv_temperature, "
      "Tensor? top_k, Tensor? top_p, Tensor? min_p, Tensor? top_n_sigma, Tensor? top_h, "
      "str top_h_variant, Tensor? threshold, Tensor seeds, Tensor offsets, int fallback_token) -> "
      "(Tensor token, Tensor logp, Tensor log_z, Tensor status)");
  m.def(
      "filter_threshold(Tensor logits, Tensor? bitmask, Tensor? mask_rows, "
      "Tensor? inv_temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p, Tensor? top_n_sigma, "
      "Tensor? top_h, str top_h_variant) -> (Tensor threshold, Tensor log_mass)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  THRIFTY_IMPL_MASK_OPS(m, thrifty::sampling::ops::Cpu);
}
