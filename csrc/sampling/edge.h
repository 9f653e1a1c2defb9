// Tensors of the sampling ops as the arguments of their checks; shared by the CPU and CUDA ops.
#pragma once

#include <string>

#include "sampling/masked_sample.h"
#include "torch/edge.h"

namespace thrifty::sampling::ops {

using edge::OptionalTensor;
using edge::SameDevice;
using edge::ScalarType;
using edge::Tensor;

// Holds what a Batch points into.
struct BatchTensors {
  Tensor logits;
  OptionalTensor bitmask, mask_rows, inv_temperature;

  BatchTensors(const Tensor& logits, const OptionalTensor& bitmask, const OptionalTensor& mask_rows,
               const OptionalTensor& inv_temperature)
      : logits(edge::dense_rows(logits)),
        bitmask(edge::dense(bitmask)),
        mask_rows(edge::dense(mask_rows)),
        inv_temperature(edge::dense(inv_temperature)) {}

  BatchArgs args(const std::string& op) const {
    return {.op = op,
            .logits = edge::array(logits),
            .bitmask = edge::array(bitmask),
            .mask_rows = edge::array(mask_rows),
            .inv_temperature = edge::array(inv_temperature),
            .on_device = !logits.is_cpu()};
  }
};

struct FilterTensors {
  OptionalTensor top_k, top_p, min_p, top_n_sigma, top_h;

  FilterTensors(const OptionalTensor& top_k, const OptionalTensor& top_p,
                const OptionalTensor& min_p, const OptionalTensor& top_n_sigma,
                const OptionalTensor& top_h)
      : top_k(edge::dense(top_k)),
        top_p(edge::dense(top_p)),
        min_p(edge::dense(min_p)),
        top_n_sigma(edge::dense(top_n_sigma)),
        top_h(edge::dense(top_h)) {}

  FilterArgs args(const std::string& top_h_variant) const {
    return {.top_k = edge::array(top_k),
            .top_p = edge::array(top_p),
            .min_p = edge::array(min_p),
            .top_n_sigma = edge::array(top_n_sigma),
            .top_h = edge::array(top_h),
            .top_h_variant = top_h_variant};
  }
};

// A result of one element per row.
inline Tensor per_row(const Tensor& like, int64_t rows, ScalarType dtype) {
  return torch::stable::new_empty(like, {rows}, dtype);
}

inline Tensor matrix(const Tensor& like, int64_t rows, int64_t columns, ScalarType dtype) {
  return torch::stable::new_empty(like, {rows, columns}, dtype);
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(edge::data(tensor));
}

}  // namespace thrifty::sampling::ops
