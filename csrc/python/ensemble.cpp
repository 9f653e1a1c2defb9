// The ensemble family on NumPy arrays: forward only, the same core functions as torch.ops.thrifty.
#include <utility>

#include "ensemble/mlp.h"
#include "python/numpy_edge.h"

namespace thrifty::python {
namespace {

using ensemble::Layer;
using Seed = std::optional<std::pair<int64_t, int64_t>>;

// (seed, offset) as the array that the checks want.
Array seed_array(Seed& seed) {
  if (!seed) return {};
  return {.data = &seed->first, .dtype = Dtype::kInt64, .ndim = 1, .shape = {2}, .strides = {1}};
}

py::array forward(const Layer& layer, const py::array& like, const std::vector<int64_t>& shape) {
  py::array out = empty(like, shape);
  void* data = out.mutable_data();
  const py::gil_scoped_release nogil;
  linear_fwd(layer, data, nullptr, pool);
  return out;
}

py::array batch_ensemble_linear(const py::array& x_, const py::array& weight_,
                                const OptionalArray& r_, const OptionalArray& s_,
                                const OptionalArray& bias_, const OptionalArray& r_next_,
                                const std::string& activation, double dropout, Seed seed, int64_t k,
                                int64_t group) {
  const py::array x = dense(x_), weight = dense(weight_);
  const OptionalArray r = dense(r_), s = dense(s_), bias = dense(bias_), r_next = dense(r_next_);
  const Layer layer = ensemble::check_batch_ensemble_linear({.op = "batch_ensemble_linear",
                                                             .x = view(x),
                                                             .weight = view(weight),
                                                             .r = view(r),
                                                             .s = view(s),
                                                             .bias = view(bias),
                                                             .r_next = view(r_next),
                                                             .seed = seed_array(seed),
                                                             .activation = activation,
                                                             .dropout = dropout,
                                                             .k = k,
                                                             .group = group});
  return forward(layer, x, ensemble::out_shape(layer, group > 0));
}

py::array ensemble_linear(const py::array& x_, const py::array& weight_, const OptionalArray& bias_,
                          const std::string& activation, double dropout, Seed seed) {
  const py::array x = dense(x_), weight = dense(weight_);
  const OptionalArray bias = dense(bias_);
  const Layer layer = ensemble::check_ensemble_linear({.op = "ensemble_linear",
                                                       .x = view(x),
                                                       .weight = view(weight),
                                                       .bias = view(bias),
                                                       .seed = seed_array(seed),
                                                       .activation = activation,
                                                       .dropout = dropout});
  return forward(layer, x, ensemble::out_shape(layer, false));
}

// None becomes an array without elements: a layer without that vector.
std::vector<py::array> dense_list(const std::vector<OptionalArray>& arrays) {
  std::vector<py::array> all;
  for (const OptionalArray& array : arrays) {
    all.push_back(array ? dense(*array) : py::array_t<float>(py::ssize_t(0)));
  }
  return all;
}

py::array batch_ensemble_mlp(const py::array& x_, const std::vector<OptionalArray>& weight_,
                             const std::vector<OptionalArray>& r_,
                             const std::vector<OptionalArray>& s_,
                             const std::vector<OptionalArray>& bias_,
                             const OptionalArray& head_weight_, const OptionalArray& head_bias_,
                             const std::string& activation, const std::string& reduce) {
  const py::array x = dense(x_);
  const auto weight = dense_list(weight_), r = dense_list(r_), s = dense_list(s_),
             bias = dense_list(bias_);
  const OptionalArray head_weight = dense(head_weight_), head_bias = dense(head_bias_);
  const ensemble::Mlp mlp = ensemble::check_batch_ensemble_mlp({.x = view(x),
                                                                .weight = views(weight),
                                                                .r = views(r),
                                                                .s = views(s),
                                                                .bias = views(bias),
                                                                .packed = {},
                                                                .head_weight = view(head_weight),
                                                                .head_bias = view(head_bias),
                                                                .activation = activation,
                                                                .reduce = reduce});
  py::array out = empty(x, mlp.out_shape());
  void* data = out.mutable_data();
  const py::gil_scoped_release nogil;
  ensemble::batch_ensemble_mlp(mlp, data, pool);
  return out;
}

}  // namespace

void bind_ensemble(py::module_& m) {
  m.def("batch_ensemble_linear", &batch_ensemble_linear, py::arg("x"), py::arg("weight"),
        py::arg("r") = py::none(), py::arg("s") = py::none(), py::arg("bias") = py::none(),
        py::arg("r_next") = py::none(), py::arg("activation") = "none", py::arg("dropout") = 0.0,
        py::arg("seed") = py::none(), py::arg("k") = 0, py::arg("group") = 0);
  m.def("ensemble_linear", &ensemble_linear, py::arg("x"), py::arg("weight"),
        py::arg("bias") = py::none(), py::arg("activation") = "none", py::arg("dropout") = 0.0,
        py::arg("seed") = py::none());
  m.def("batch_ensemble_mlp", &batch_ensemble_mlp, py::arg("x"), py::arg("weight"), py::arg("r"),
        py::arg("s"), py::arg("bias"), py::arg("head_weight") = py::none(),
        py::arg("head_bias") = py::none(), py::arg("activation") = "relu",
        py::arg("reduce") = "none");
}

}  // namespace thrifty::python
