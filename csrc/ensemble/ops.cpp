// torch.ops.thrifty.*: the ensemble family on the CPU.
#include "ensemble/layer_ops.h"
#include "ensemble/mlp.h"

namespace thrifty::ensemble::ops {
namespace {

struct Cpu {
  static void check(const std::string&, const char*, const Tensor&, const Tensor&) {}
  static void check(const std::string&, const Layer&) {}
  static void fwd(const Layer& layer, const Tensor&, void* out, void* z) {
    linear_fwd(layer, out, z, edge::torch_threads);
  }
  static void bwd(const Layer& layer, const Tensor&, const void* grad, const void* z,
                  const LayerGrads& grads) {
    linear_bwd(layer, grad, z, grads, edge::torch_threads);
  }
};

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
  const auto panels = all_dense(packed);
  const OptionalTensor head = edge::dense(head_weight), head_b = edge::dense(head_bias);
  const Mlp mlp = check_batch_ensemble_mlp({.x = edge::array(rows),
                                            .weight = edge::arrays(weights),
                                            .r = edge::arrays(rs),
                                            .s = edge::arrays(ss),
                                            .bias = edge::arrays(biases),
                                            .packed = edge::arrays(panels),
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
  THRIFTY_IMPL_LAYER_OPS(m, thrifty::ensemble::ops::Cpu);
  m.impl("batch_ensemble_mlp", TORCH_BOX(&thrifty::ensemble::ops::batch_ensemble_mlp));
  m.impl("pack_weight", TORCH_BOX(&thrifty::ensemble::ops::pack_weight));
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&thrifty::ensemble::ops::cpu_isa));
}
