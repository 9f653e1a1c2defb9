// torch.ops.thrifty.*: the sampling family on CUDA.
#include <tuple>

#include "sampling/edge_cuda.h"

namespace thrifty::sampling::ops {
namespace {

void apply_token_bitmask_(const Tensor& logits, const Tensor& bitmask,
                          const OptionalTensor& indices, const OptionalTensor& row_map,
                          std::optional<int64_t> vocab_size) {
  SameDevice("apply_token_bitmask_", "logits", logits)("bitmask", bitmask)("indices", indices)(
      "row_map", row_map);
  const Tensor mask = edge::dense(bitmask);
  const OptionalTensor rows = edge::dense(indices), map = edge::dense(row_map);
  const ApplyBitmask op = check_apply_token_bitmask({.logits = edge::array(logits),
                                                     .bitmask = edge::array(mask),
                                                     .indices = edge::array(rows),
                                                     .row_map = edge::array(map),
                                                     .vocab_size = vocab_size.value_or(-1),
                                                     .on_device = true});
  const edge::CudaScope scope(logits);
  done(cuda::apply_token_bitmask(op, scope.stream));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> masked_sample(
    const Tensor& logits, const OptionalTensor& bitmask, const OptionalTensor& mask_rows,
    const OptionalTensor& inv_temperature, const OptionalTensor& top_k, const OptionalTensor& top_p,
    const OptionalTensor& min_p, const OptionalTensor& top_n_sigma, const OptionalTensor& top_h,
    const std::string& top_h_variant, const OptionalTensor& threshold, const Tensor& seeds,
    const Tensor& offsets, int64_t fallback_token) {
  SameDevice("masked_sample", "logits", logits)("bitmask", bitmask)("mask_rows", mask_rows)(
      "inv_temperature", inv_temperature)("top_k", top_k)("top_p", top_p)("min_p", min_p)(
      "top_n_sigma", top_n_sigma)("top_h", top_h)("threshold", threshold)("seeds", seeds)("offsets",
                                                                                          offsets);
  const BatchTensors batch(logits, bitmask, mask_rows, inv_temperature);
  const FilterTensors filters(top_k, top_p, min_p, top_n_sigma, top_h);
  const OptionalTensor bound = edge::dense(threshold);
  const Tensor keys = edge::dense(seeds), counts = edge::dense(offsets);
  const MaskedSample op = check_masked_sample({.batch = batch.args("masked_sample"),
                                               .filters = filters.args(top_h_variant),
                                               .threshold = edge::array(bound),
                                               .seeds = edge::array(keys),
                                               .offsets = edge::array(counts),
                                               .fallback_token = fallback_token});
  const int64_t rows = op.batch.rows;
  Tensor token = per_row(logits, rows, ScalarType::Long);
  Tensor logp = per_row(logits, rows, ScalarType::Float);
  Tensor log_z = per_row(logits, rows, ScalarType::Float);
  Tensor status = per_row(logits, rows, ScalarType::Int);
  const edge::CudaScope scope(logits);
  const Tensor scratch = edge::scratch(logits, cuda::masked_sample_scratch(op));
  done(cuda::masked_sample(
      op, {data<int64_t>(token), data<float>(logp), data<float>(log_z), data<int32_t>(status)},
      edge::data(scratch), scope.stream));
  return {token, logp, log_z, status};
}

std::tuple<Tensor, Tensor> filter_threshold(
    const Tensor& logits, const OptionalTensor& bitmask, const OptionalTensor& mask_rows,
    const OptionalTensor& inv_temperature, const OptionalTensor& top_k, const OptionalTensor& top_p,
    const OptionalTensor& min_p, const OptionalTensor& top_n_sigma, const OptionalTensor& top_h,
    const std::string& top_h_variant) {
  SameDevice("filter_threshold", "logits", logits)("bitmask", bitmask)("mask_rows", mask_rows)(
      "inv_temperature", inv_temperature)("top_k", top_k)("top_p", top_p)("min_p", min_p)(
      "top_n_sigma", top_n_sigma)("top_h", top_h);
  const BatchTensors batch(logits, bitmask, mask_rows, inv_temperature);
  const FilterTensors filters(top_k, top_p, min_p, top_n_sigma, top_h);
  const FilterThreshold op =
      check_filter_threshold(batch.args("filter_threshold"), filters.args(top_h_variant));
  Tensor threshold = per_row(logits, op.batch.rows, ScalarType::Float);
  Tensor log_mass = per_row(logits, op.batch.rows, ScalarType::Float);
  const edge::CudaScope scope(logits);
  const Tensor scratch = edge::scratch(logits, cuda::filter_threshold_scratch(op));
  done(cuda::filter_threshold(op, {data<float>(threshold), data<float>(log_mass)},
                              edge::data(scratch), scope.stream));
  return {threshold, log_mass};
}

}  // namespace
}  // namespace thrifty::sampling::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  m.impl("apply_token_bitmask_", TORCH_BOX(&thrifty::sampling::ops::apply_token_bitmask_));
  m.impl("masked_sample", TORCH_BOX(&thrifty::sampling::ops::masked_sample));
  m.impl("filter_threshold", TORCH_BOX(&thrifty::sampling::ops::filter_threshold));
}
