// The torch ops of the ensemble layers, once for the CPU and for CUDA: checks, allocation, call.
//
// A Device says how a layer is run:
//   check(op, name, tensor, x)  refuses a tensor that is elsewhere than x
//   check(op, layer)            refuses a layer that the kernels do not take
//   fwd(layer, x, out, z)       bwd(layer, x, grad, z, grads)
#pragma once

#include <string>
#include <tuple>

#include "ensemble/layer_edge.h"

namespace thrifty::ensemble::ops {

using edge::OptionalTensor;
using edge::Tensor;

inline const std::string kShared = "batch_ensemble_linear", kPacked = "ensemble_linear";

struct Grads {
  Tensor x, weight, r, s, bias, r_next;
};

template <class Device>
struct LayerOps {
  static void check_devices(const std::string& op, const LayerTensors& in) {
    const auto check = [&](const char* name, const OptionalTensor& tensor) {
      if (tensor) Device::check(op, name, *tensor, in.x);
    };
    check("x", in.x), check("weight", in.weight), check("r", in.r), check("s", in.s);
    check("bias", in.bias), check("r_next", in.r_next), check("seed", in.seed);
  }

  static std::tuple<Tensor, Tensor> forward(const std::string& op, const Layer& layer,
                                            const Tensor& like, bool grouped, bool save_z) {
    Device::check(op, layer);
    Tensor out = edge::empty(like, out_shape(layer, grouped));
    Tensor z = edge::empty(like, out_shape(layer, grouped), save_z);
    Device::fwd(layer, like, edge::data(out), save_z ? edge::data(z) : nullptr);
    return {out, z};
  }

  static std::tuple<Tensor, Tensor> batch_ensemble_linear_fwd(
      const Tensor& x, const Tensor& weight, const OptionalTensor& r, const OptionalTensor& s,
      const OptionalTensor& bias, const OptionalTensor& r_next, const OptionalTensor& seed,
      const std::string& activation, double dropout, int64_t k, int64_t group, bool save_z) {
    const LayerTensors tensors(x, weight, r, s, bias, r_next, seed);
    check_devices(kShared, tensors);
    const Layer layer =
        check_batch_ensemble_linear(tensors.args(kShared, activation, dropout, k, group));
    return forward(kShared, layer, x, group > 0, save_z);
  }

  static std::tuple<Tensor, Tensor> ensemble_linear_fwd(const Tensor& x, const Tensor& weight,
                                                        const OptionalTensor& bias,
                                                        const OptionalTensor& seed,
                                                        const std::string& activation,
                                                        double dropout, bool save_z) {
    const LayerTensors tensors(x, weight, {}, {}, bias, {}, seed);
    check_devices(kPacked, tensors);
    const Layer layer = check_ensemble_linear(tensors.args(kPacked, activation, dropout));
    return forward(kPacked, layer, x, false, save_z);
  }

  // Checks what backward alone gets, allocates the gradients that are wanted, and runs.
  static Grads backward(const std::string& op, const Layer& layer, const LayerTensors& in,
                        const Tensor& grad, const Tensor& z, int64_t needs) {
    Device::check(op, layer);
    Device::check(op, "grad", grad, in.x);
    Device::check(op, "z", z, in.x);
    check_saved(op, "grad", grad, layer);
    const bool has_z = z.numel() > 0;
    if (has_z) check_saved(op, "z", z, layer);
    THRIFTY_CHECK(has_z || layer.rows() * layer.out == 0 ||
                      !backward_needs_z(layer, needs & kS, needs & kRNext),
                  op, ": z: expected the z that forward saved, got none");
    const Tensor dense_grad = edge::dense(grad), dense_z = edge::dense(z);
    Grads grads{edge::empty_like(in.x, in.x, needs & kX),
                edge::empty_like(in.x, in.weight, needs & kWeight),
                edge::empty_like(in.x, in.r, needs & kR),
                edge::empty_like(in.x, in.s, needs & kS),
                edge::empty_like(in.x, in.bias, needs & kBias),
                edge::empty_like(in.x, in.r_next, needs & kRNext)};
    Device::bwd(layer, in.x, edge::data(dense_grad), has_z ? edge::data(dense_z) : nullptr,
                {edge::data(grads.x), edge::data(grads.weight), edge::data(grads.r),
                 edge::data(grads.s), edge::data(grads.bias), edge::data(grads.r_next)});
    return grads;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> batch_ensemble_linear_bwd(
      const Tensor& grad, const Tensor& x, const Tensor& weight, const OptionalTensor& r,
      const OptionalTensor& s, const OptionalTensor& bias, const OptionalTensor& r_next,
      const OptionalTensor& seed, const Tensor& z, const std::string& activation, double dropout,
      int64_t k, int64_t group, int64_t needs) {
    const LayerTensors tensors(x, weight, r, s, bias, r_next, seed);
    check_devices(kShared, tensors);
    const Layer layer =
        check_batch_ensemble_linear(tensors.args(kShared, activation, dropout, k, group));
    const Grads g = backward(kShared, layer, tensors, grad, z, needs);
    return {g.x, g.weight, g.r, g.s, g.bias, g.r_next};
  }

  static std::tuple<Tensor, Tensor, Tensor> ensemble_linear_bwd(
      const Tensor& grad, const Tensor& x, const Tensor& weight, const OptionalTensor& bias,
      const OptionalTensor& seed, const Tensor& z, const std::string& activation, double dropout,
      int64_t needs) {
    const LayerTensors tensors(x, weight, {}, {}, bias, {}, seed);
    check_devices(kPacked, tensors);
    const Layer layer = check_ensemble_linear(tensors.args(kPacked, activation, dropout));
    // The schema counts x, weight, bias.
    const int64_t bits = (needs & (kX | kWeight)) | (needs & 4 ? int64_t(kBias) : 0);
    const Grads g = backward(kPacked, layer, tensors, grad, z, bits);
    return {g.x, g.weight, g.bias};
  }
};

}  // namespace thrifty::ensemble::ops

// The layers' kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_LAYER_OPS(m, Device)                                               \
  using LayerOps = ::thrifty::ensemble::ops::LayerOps<Device>;                          \
  m.impl("batch_ensemble_linear_fwd", TORCH_BOX(&LayerOps::batch_ensemble_linear_fwd)); \
  m.impl("batch_ensemble_linear_bwd", TORCH_BOX(&LayerOps::batch_ensemble_linear_bwd)); \
  m.impl("ensemble_linear_fwd", TORCH_BOX(&LayerOps::ensemble_linear_fwd));             \
  m.impl("ensemble_linear_bwd", TORCH_BOX(&LayerOps::ensemble_linear_bwd))
