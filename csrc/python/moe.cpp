// The moe family on NumPy arrays: forward only, the same core functions as torch.ops.thrifty.
#include "core/bucket_sort.h"
#include "moe/grouped_mm.h"
#include "moe/mlp.h"
#include "moe/route.h"
#include "moe/token_rows.h"
#include "python/numpy_edge.h"

namespace thrifty::python {
namespace {

using moe::check_moe_permute;

py::array_t<int32_t> integers(int64_t n) { return py::array_t<int32_t>(py::ssize_t(n)); }

py::tuple moe_route(const py::array& logits_, int64_t top_k, const std::string& score, bool renorm,
                    double scale, const OptionalArray& bias_, const OptionalArray& mask_,
                    int64_t n_group, int64_t topk_group, int64_t group_topn) {
  const py::array logits = dense(logits_);
  const OptionalArray bias = dense(bias_), mask = dense(mask_);
  const moe::Route route = moe::check_moe_route({.logits = view(logits),
                                                 .bias = view(bias),
                                                 .mask = view(mask),
                                                 .top_k = top_k,
                                                 .score = score,
                                                 .renorm = renorm,
                                                 .scale = scale,
                                                 .n_group = n_group,
                                                 .topk_group = topk_group,
                                                 .group_topn = group_topn});
  const std::vector<py::ssize_t> shape{route.tokens, top_k};
  const bool wide = route.wide() == Dtype::kFloat64;
  py::array weights(wide ? py::dtype::of<double>() : py::dtype::of<float>(), shape);
  py::array_t<int32_t> ids(shape);
  void* weight = weights.mutable_data();
  int32_t* id = ids.mutable_data();
  {
    const py::gil_scoped_release nogil;
    moe::moe_route_fwd(route, weight, id, nullptr, nullptr, pool);
  }
  return py::make_tuple(weights, ids);
}

py::tuple moe_permute(const py::array& ids_, int64_t num_experts, const OptionalArray& map_,
                      int64_t capacity, const OptionalArray& priority_) {
  const py::array ids = dense(ids_);
  const OptionalArray map = dense(map_), priority = dense(priority_);
  const moe::Permute permute =
      check_moe_permute(view(ids), num_experts, view(map), capacity, view(priority));
  auto slot = integers(permute.slots()), offsets = integers(num_experts + 1),
       inverse = integers(permute.slots());
  int32_t *s = slot.mutable_data(), *o = offsets.mutable_data(), *i = inverse.mutable_data();
  {
    const py::gil_scoped_release nogil;
    moe::moe_permute(permute, s, o, i, pool);
  }
  return py::make_tuple(slot, offsets, inverse);
}

py::array grouped_mm(const py::array& a_, const py::array& b_, const py::array& offs_,
                     const OptionalArray& a_idx_, const OptionalArray& bias_,
                     const OptionalArray& row_scale_, const OptionalArray& accumulate_) {
  const py::array a = dense(a_), b = dense(b_), offs = dense(offs_);
  const OptionalArray a_idx = dense(a_idx_), bias = dense(bias_), row_scale = dense(row_scale_),
                      accumulate = dense(accumulate_);
  const moe::GroupedMm product = moe::check_grouped_mm({.a = view(a),
                                                        .b = view(b),
                                                        .offs = view(offs),
                                                        .a_idx = view(a_idx),
                                                        .bias = view(bias),
                                                        .row_scale = view(row_scale),
                                                        .added = view(accumulate)});
  py::array out = empty(a, product.out_shape());
  void* data = out.mutable_data();
  const py::gil_scoped_release nogil;
  moe::grouped_mm(product, data, pool);
  return out;
}

py::array moe_mlp(const py::array& x_, const py::array& w1_, const py::array& w2_,
                  const py::array& ids_, const py::array& weights_, const OptionalArray& b1_,
                  const OptionalArray& b2_, const std::string& activation, bool transposed,
                  bool interleaved, double alpha, double limit, const OptionalArray& map_) {
  const py::array x = dense(x_), w1 = dense(w1_), w2 = dense(w2_), ids = dense(ids_),
                  weights = dense(weights_);
  const OptionalArray b1 = dense(b1_), b2 = dense(b2_), map = dense(map_);
  const moe::Mlp mlp = moe::check_moe_mlp({.x = view(x),
                                           .w1 = view(w1),
                                           .w2 = view(w2),
                                           .ids = view(ids),
                                           .weights = view(weights),
                                           .b1 = view(b1),
                                           .b2 = view(b2),
                                           .expert_map = view(map),
                                           .activation = activation,
                                           .transposed = transposed,
                                           .interleaved = interleaved,
                                           .alpha = alpha,
                                           .limit = limit});
  py::array out = empty(x, {mlp.tokens, mlp.hidden});
  void* data = out.mutable_data();
  const py::gil_scoped_release nogil;
  moe::moe_mlp_fwd(mlp, data, nullptr, pool);
  return out;
}

py::tuple token_topk(const py::array& scores_, int64_t k) {
  const py::array scores = dense(scores_);
  const moe::TokenTopk topk = moe::check_token_topk(view(scores), k);
  std::vector<py::ssize_t> shape(scores.shape(), scores.shape() + scores.ndim());
  shape.back() = py::ssize_t(k);
  py::array_t<int64_t> index(shape);
  py::array weights(scores.dtype(), shape);
  int64_t* chosen = index.mutable_data();
  void* data = weights.mutable_data();
  {
    const py::gil_scoped_release nogil;
    moe::token_topk(topk, data, chosen, pool);
  }
  return py::make_tuple(weights, index);
}

py::array gather_rows(const py::array& x_, const py::array& index_, const OptionalArray& weights_) {
  const py::array x = dense(x_), index = dense(index_);
  const OptionalArray weights = dense(weights_);
  const moe::TokenRowsOp op = moe::check_gather_rows(view(x), view(index), view(weights));
  std::vector<int64_t> shape(index.shape(), index.shape() + index.ndim());
  shape.push_back(op.width);
  py::array out = empty(x, shape);
  void* data = out.mutable_data();
  const py::gil_scoped_release nogil;
  moe::gather_rows(op, data, pool);
  return out;
}

py::array scatter_add_rows(const py::array& x_, const py::array& index_, const py::array& src_,
                           const OptionalArray& weights_) {
  const py::array x = dense(x_), index = dense(index_), src = dense(src_);
  const OptionalArray weights = dense(weights_);
  const moe::TokenRowsOp op =
      moe::check_scatter_add_rows(view(x), view(index), view(src), view(weights));
  py::array out = empty(x, std::vector<int64_t>(x.shape(), x.shape() + x.ndim()));
  void* data = out.mutable_data();
  const py::gil_scoped_release nogil;
  moe::scatter_add_rows(op, data, pool);
  return out;
}

}  // namespace

// Without defaults: numpy.py has them, and the documentation.
void bind_moe(py::module_& m) {
  m.def("moe_route", &moe_route);
  m.def("moe_permute", &moe_permute);
  m.def("grouped_mm", &grouped_mm);
  m.def("moe_mlp", &moe_mlp);
  m.def("token_topk", &token_topk);
  m.def("gather_rows", &gather_rows);
  m.def("scatter_add_rows", &scatter_add_rows);
}

}  // namespace thrifty::python
