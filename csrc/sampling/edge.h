// Tensors of the sampling ops as the arguments of their checks; shared by the CPU and CUDA ops.
#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
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

// A contiguous result on the device of `like`. Not new_empty: that is a call through the
// dispatcher, by name, which takes 1.5 us, as much as a draw.
inline Tensor allocate(const Tensor& like, std::initializer_list<int64_t> shape, ScalarType dtype) {
  std::array<int64_t, 2> strides{1, 1};
  if (shape.size() == 2) strides[0] = std::max<int64_t>(1, shape.begin()[1]);
  const auto type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  int32_t device = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device));
  AtenTensorHandle made = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(shape.size()), shape.begin(),
                                                         strides.data(), type, device,
                                                         int32_t(like.get_device_index()), &made));
  return Tensor(made);
}

// A result of one element per row.
inline Tensor per_row(const Tensor& like, int64_t rows, ScalarType dtype) {
  return allocate(like, {rows}, dtype);
}

inline Tensor matrix(const Tensor& like, int64_t rows, int64_t columns, ScalarType dtype) {
  return allocate(like, {rows, columns}, dtype);
}

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(edge::data(tensor));
}

}  // namespace thrifty::sampling::ops
