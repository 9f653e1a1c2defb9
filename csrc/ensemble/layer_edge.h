// Tensors of an ensemble layer as the arguments of its checks; shared by the CPU and the CUDA ops.
#pragma once

#include "ensemble/linear.h"
#include "torch/edge.h"

namespace thrifty::ensemble {

// Holds what the Layer points into.
struct LayerTensors {
  edge::Tensor x, weight;
  edge::OptionalTensor r, s, bias, r_next, seed;

  LayerTensors(const edge::Tensor& x, const edge::Tensor& weight, const edge::OptionalTensor& r,
               const edge::OptionalTensor& s, const edge::OptionalTensor& bias,
               const edge::OptionalTensor& r_next, const edge::OptionalTensor& seed)
      : x(edge::dense_rows(x)),
        weight(edge::dense(weight)),
        r(edge::dense(r)),
        s(edge::dense(s)),
        bias(edge::dense(bias)),
        r_next(edge::dense(r_next)),
        seed(seed) {}

  LayerArgs args(const std::string& op, const std::string& activation, double dropout,
                 int64_t k = 0, int64_t group = 0) const {
    return {.op = op,
            .x = edge::array(x),
            .weight = edge::array(weight),
            .r = edge::array(r),
            .s = edge::array(s),
            .bias = edge::array(bias),
            .r_next = edge::array(r_next),
            .seed = edge::array(seed),
            .activation = activation,
            .dropout = dropout,
            .k = k,
            .group = group,
            .on_device = !x.is_cpu()};
  }
};

// What backward was handed must be what forward returned.
inline void check_saved(const std::string& op, const char* name, const edge::Tensor& tensor,
                        const Layer& layer) {
  const Array a = edge::array(tensor);
  THRIFTY_CHECK(a.numel() == layer.rows() * layer.out && a.dtype == layer.dtype, op, ": ", name,
                ": expected ", dtype_name(layer.dtype), " with ", layer.rows() * layer.out,
                " elements like the layer's output, got ", dtype_name(a.dtype), " ", shape_text(a));
}

enum Needs : int64_t { kX = 1, kWeight = 2, kR = 4, kS = 8, kBias = 16, kRNext = 32 };

}  // namespace thrifty::ensemble
