// The torch ops of masks, filters and draws, once for the CPU and for CUDA: checks, allocation,
// call.
//
// A Device says how a call is run:
//   check(op, name, tensor, first_name, first)  refuses a tensor that is elsewhere than the first
//   apply_token_bitmask(op, logits), masked_sample(op, logits, out), filter_threshold(...)
#pragma once

#include <string>
#include <tuple>

#include "sampling/bitmask.h"
#include "sampling/edge.h"

namespace thrifty::sampling::ops {

template <class Device>
struct MaskOps {
  static void apply_token_bitmask_(const Tensor& logits, const Tensor& bitmask,
                                   const OptionalTensor& indices, const OptionalTensor& row_map,
                                   std::optional<int64_t> vocab_size) {
    SameDevice<Device>("apply_token_bitmask_", "logits", logits)("bitmask", bitmask)(
        "indices", indices)("row_map", row_map);
    const Tensor mask = edge::dense(bitmask);
    const OptionalTensor rows = edge::dense(indices), map = edge::dense(row_map);
    const ApplyBitmask op = check_apply_token_bitmask({.logits = edge::array(logits),
                                                       .bitmask = edge::array(mask),
                                                       .indices = edge::array(rows),
                                                       .row_map = edge::array(map),
                                                       .vocab_size = vocab_size.value_or(-1),
                                                       .on_device = !logits.is_cpu()});
    Device::apply_token_bitmask(op, logits);
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> masked_sample(
      const Tensor& logits, const OptionalTensor& bitmask, const OptionalTensor& mask_rows,
      const OptionalTensor& inv_temperature, const OptionalTensor& top_k,
      const OptionalTensor& top_p, const OptionalTensor& min_p, const OptionalTensor& top_n_sigma,
      const OptionalTensor& top_h, const std::string& top_h_variant,
      const OptionalTensor& threshold, const Tensor& seeds, const Tensor& offsets,
      int64_t fallback_token) {
    SameDevice<Device>("masked_sample", "logits", logits)("bitmask", bitmask)(
        "mask_rows", mask_rows)("inv_temperature", inv_temperature)("top_k", top_k)("top_p", top_p)(
        "min_p", min_p)("top_n_sigma", top_n_sigma)("top_h", top_h)("threshold", threshold)(
        "seeds", seeds)("offsets", offsets);
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
    Device::masked_sample(
        op, logits,
        {data<int64_t>(token), data<float>(logp), data<float>(log_z), data<int32_t>(status)});
    return {token, logp, log_z, status};
  }

  static std::tuple<Tensor, Tensor> filter_threshold(
      const Tensor& logits, const OptionalTensor& bitmask, const OptionalTensor& mask_rows,
      const OptionalTensor& inv_temperature, const OptionalTensor& top_k,
      const OptionalTensor& top_p, const OptionalTensor& min_p, const OptionalTensor& top_n_sigma,
      const OptionalTensor& top_h, const std::string& top_h_variant) {
    SameDevice<Device>("filter_threshold", "logits", logits)("bitmask", bitmask)(
        "mask_rows", mask_rows)("inv_temperature", inv_temperature)("top_k", top_k)("top_p", top_p)(
        "min_p", min_p)("top_n_sigma", top_n_sigma)("top_h", top_h);
    const BatchTensors batch(logits, bitmask, mask_rows, inv_temperature);
    const FilterTensors filters(top_k, top_p, min_p, top_n_sigma, top_h);
    const FilterThreshold op =
        check_filter_threshold(batch.args("filter_threshold"), filters.args(top_h_variant));
    Tensor threshold = per_row(logits, op.batch.rows, ScalarType::Float);
    Tensor log_mass = per_row(logits, op.batch.rows, ScalarType::Float);
    Device::filter_threshold(op, logits, {data<float>(threshold), data<float>(log_mass)});
    return {threshold, log_mass};
  }
};

}  // namespace thrifty::sampling::ops

// The kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_MASK_OPS(m, Device)                                     \
  using MaskOps = ::thrifty::sampling::ops::MaskOps<Device>;                 \
  m.impl("apply_token_bitmask_", TORCH_BOX(&MaskOps::apply_token_bitmask_)); \
  m.impl("masked_sample", TORCH_BOX(&MaskOps::masked_sample));               \
  m.impl("filter_threshold", TORCH_BOX(&MaskOps::filter_threshold))
