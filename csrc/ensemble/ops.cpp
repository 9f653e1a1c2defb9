// torch.ops.thrifty.*: the ensemble family on the CPU.
#include <tuple>

#include "ensemble/layer_edge.h"
#include "ensemble/mlp.h"

namespace thrifty::ensemble::ops {
namespace {

using edge::OptionalTensor;
using edge::Tensor;

const std::string kShared = "batch_ensemble_linear", kPacked = "ensemble_linear";

std::tuple<Tensor, Tensor> forward(const Layer& layer, const Tensor& like, bool grouped,
                                   bool save_z) {
  Tensor out = edge::empty(like, out_shape(layer, grouped));
  Tensor z = edge::empty(like, out_shape(layer, grouped), save_z);
  linear_fwd(layer, edge::data(out), save_z ? edge::data(z) : nullptr, edge::torch_threads);
  return {out, z};
}

std::tuple<Tensor, Tensor> batch_ensemble_linear_fwd(
    const Tensor& x, const Tensor& weight, const OptionalTensor& r, const OptionalTensor& s,
    const OptionalTensor& bias, const OptionalTensor& r_next, const OptionalTensor& seed,
    const std::string& activation, double dropout, int64_t k, int64_t group, bool save_z) {
  const LayerTensors tensors(x, weight, r, s, bias, r_next, seed);
  const Layer layer =
      check_batch_ensemble_linear(tensors.args(kShared, activation, dropout, k, group));
  return forward(layer, x, group > 0, save_z);
}

std::tuple<Tensor, Tensor> ensemble_linear_fwd(const Tensor& x, const Tensor& weight,
                                               const OptionalTensor& bias,
                                               const OptionalTensor& seed,
                                               const std::string& activation, double dropout,
                                               bool save_z) {
  const LayerTensors tensors(x, weight, {}, {}, bias, {}, seed);
  return forward(check_ensemble_linear(tensors.args(kPacked, activation, dropout)), x, false,
                 save_z);
}

struct Grads {
  Tensor x, weight, r, s, bias, r_next;
};

// Checks what backward alone gets, allocates the gradients that are wanted, and runs.
Grads backward(const std::string& op, const Layer& layer, const LayerTensors& in,
               const Tensor& grad, const Tensor& z, int64_t needs) {
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
  linear_bwd(layer, edge::data(dense_grad), has_z ? edge::data(dense_z) : nullptr,
             {edge::data(grads.x), edge::data(grads.weight), edge::data(grads.r),
              edge::data(grads.s), edge::data(grads.bias), edge::data(grads.r_next)},
             edge::torch_threads);
  return grads;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> batch_ensemble_linear_bwd(
    const Tensor& grad, const Tensor& x, const Tensor& weight, const OptionalTensor& r,
    const OptionalTensor& s, const OptionalTensor& bias, const OptionalTensor& r_next,
    const OptionalTensor& seed, const Tensor& z, const std::string& activation, double dropout,
    int64_t k, int64_t group, int64_t needs) {
  const LayerTensors tensors(x, weight, r, s, bias, r_next, seed);
  const Layer layer =
      check_batch_ensemble_linear(tensors.args(kShared, activation, dropout, k, group));
  const Grads g = backward(kShared, layer, tensors, grad, z, needs);
  return {g.x, g.weight, g.r, g.s, g.bias, g.r_next};
}

std::tuple<Tensor, Tensor, Tensor> ensemble_linear_bwd(const Tensor& grad, const Tensor& x,
                                                       const Tensor& weight,
                                                       const OptionalTensor& bias,
                                                       const OptionalTensor& seed, const Tensor& z,
                                                       const std::string& activation,
                                                       double dropout, int64_t needs) {
  const LayerTensors tensors(x, weight, {}, {}, bias, {}, seed);
  const Layer layer = check_ensemble_linear(tensors.args(kPacked, activation, dropout));
  // The schema counts x, weight, bias.
  const int64_t bits = (needs & (kX | kWeight)) | (needs & 4 ? int64_t(kBias) : 0);
  const Grads g = backward(kPacked, layer, tensors, grad, z, bits);
  return {g.x, g.weight, g.bias};
}

std::vector<Tensor> all_dense(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> dense;
  for (const Tensor& tensor : tensors) dense.push_back(edge::dense(tensor));
  return dense;
}

Tensor batch_ensemble_mlp(const Tensor& x, const std::vector<Tensor>& weight,
                          const std::vector<Tensor>& r, const std::vector<Tensor>& s,
                          const std::vector<Tensor>& bias, const OptionalTensor& head_weight,
                          const OptionalTensor& head_bias, const std::string& activation,
                          const std::string& reduce, const std::vector<Tensor>& packed) {
  const Tensor rows = edge::dense_rows(x);
  const auto weights = all_dense(weight), rs = all_dense(r), ss = all_dense(s),
             biases = all_dense(bias);
  const OptionalTensor head = edge::dense(head_weight), head_b = edge::dense(head_bias);
  const Mlp mlp = check_batch_ensemble_mlp({.x = edge::array(rows),
                                            .weight = edge::arrays(weights),
                                            .r = edge::arrays(rs),
                                            .s = edge::arrays(ss),
                                            .bias = edge::arrays(biases),
                                            .packed = edge::arrays(packed),
                                            .head_weight = edge::array(head),
                                            .head_bias = edge::array(head_b),
                                            .activation = activation,
                                            .reduce = reduce});
  Tensor out = edge::empty(x, mlp.out_shape());
  ensemble::batch_ensemble_mlp(mlp, edge::data(out), edge::torch_threads);
  return out;
}

Tensor pack_weight(const Tensor& weight) {
  const Array a = edge::array(weight);
  THRIFTY_CHECK(is_floating(a.dtype), "pack_weight: weight: expected a floating dtype, got ",
                dtype_name(a.dtype));
  THRIFTY_CHECK(a.ndim == 2, "pack_weight: weight: expected shape (out, in), got ", shape_text(a));
  const Tensor dense = edge::dense(weight);
  const int64_t out = a.shape[0], in = a.shape[1];
  Tensor panels = torch::stable::new_empty(weight, {packed_weight_bytes(a.dtype, in, out)},
                                           edge::ScalarType::Byte);
  if (out * in > 0) {
    ensemble::pack_weight(a.dtype, in, out, dense.data_ptr(), panels.data_ptr(),
                          edge::torch_threads);
  }
  return panels;
}

std::string cpu_isa() { return isa_name(active_isa()); }

}  // namespace
}  // namespace thrifty::ensemble::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def(
      "batch_ensemble_linear_fwd(Tensor x, Tensor weight, Tensor? r, Tensor? s, Tensor? bias, "
      "Tensor? r_next, Tensor? seed, str activation, float dropout, int k, int group, bool save_z) "
      "-> (Tensor out, Tensor z)");
  m.def(
      "batch_ensemble_linear_bwd(Tensor grad, Tensor x, Tensor weight, Tensor? r, Tensor? s, "
      "Tensor? bias, Tensor? r_next, Tensor? seed, Tensor z, str activation, float dropout, int k, "
      "int group, int needs) "
      "-> (Tensor dx, Tensor dweight, Tensor dr, Tensor ds, Tensor dbias, Tensor dr_next)");
  m.def(
      "ensemble_linear_fwd(Tensor x, Tensor weight, Tensor? bias, Tensor? seed, str activation, "
      "float dropout, bool save_z) -> (Tensor out, Tensor z)");
  m.def(
      "ensemble_linear_bwd(Tensor grad, Tensor x, Tensor weight, Tensor? bias, Tensor? seed, "
      "Tensor z, "
      "str activation, float dropout, int needs) -> (Tensor dx, Tensor dweight, Tensor dbias)");
  m.def(
      "batch_ensemble_mlp(Tensor x, Tensor[] weight, Tensor[] r, Tensor[] s, Tensor[] bias, "
      "Tensor? head_weight, Tensor? head_bias, str activation, str reduce, Tensor[] packed) -> "
      "Tensor");
  m.def("pack_weight(Tensor weight) -> Tensor");
  m.def("cpu_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  m.impl("batch_ensemble_linear_fwd",
         TORCH_BOX(&thrifty::ensemble::ops::batch_ensemble_linear_fwd));
  m.impl("batch_ensemble_linear_bwd",
         TORCH_BOX(&thrifty::ensemble::ops::batch_ensemble_linear_bwd));
  m.impl("ensemble_linear_fwd", TORCH_BOX(&thrifty::ensemble::ops::ensemble_linear_fwd));
  m.impl("ensemble_linear_bwd", TORCH_BOX(&thrifty::ensemble::ops::ensemble_linear_bwd));
  m.impl("batch_ensemble_mlp", TORCH_BOX(&thrifty::ensemble::ops::batch_ensemble_mlp));
  m.impl("pack_weight", TORCH_BOX(&thrifty::ensemble::ops::pack_weight));
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&thrifty::ensemble::ops::cpu_isa));
}
