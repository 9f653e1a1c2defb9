// torch.ops.thrifty.*: tokens that leave their sequences and come back, on the CPU.
#include <tuple>

#include "moe/token_rows.h"
#include "torch/edge.h"

namespace thrifty::moe::ops {
namespace {

using edge::OptionalTensor;
using edge::Tensor;

std::vector<int64_t> sizes(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

std::tuple<Tensor, Tensor> token_topk(const Tensor& scores_, int64_t k) {
  const Tensor scores = edge::dense(scores_);
  const TokenTopk topk = check_token_topk(edge::array(scores), k);
  std::vector<int64_t> shape = sizes(scores);
  shape.back() = k;
  const Tensor index = torch::stable::new_empty(scores, shape, edge::ScalarType::Long);
  const Tensor weights = edge::empty(scores, shape);
  thrifty::moe::token_topk(topk, edge::data(weights), static_cast<int64_t*>(edge::data(index)),
                           edge::torch_threads);
  return {weights, index};
}

Tensor gather_rows(const Tensor& x_, const Tensor& index_, const OptionalTensor& weights_) {
  const Tensor x = edge::dense(x_), index = edge::dense(index_);
  const OptionalTensor weights = edge::dense(weights_);
  const TokenRowsOp op =
      check_gather_rows(edge::array(x), edge::array(index), edge::array(weights));
  std::vector<int64_t> shape = sizes(index);
  shape.push_back(op.width);
  const Tensor out = edge::empty(x, shape);
  thrifty::moe::gather_rows(op, edge::data(out), edge::torch_threads);
  return out;
}

Tensor scatter_add_rows(const Tensor& x_, const Tensor& index_, const Tensor& src_,
                        const OptionalTensor& weights_) {
  const Tensor x = edge::dense(x_), index = edge::dense(index_), src = edge::dense(src_);
  const OptionalTensor weights = edge::dense(weights_);
  const TokenRowsOp op = check_scatter_add_rows(edge::array(x), edge::array(index),
                                                edge::array(src), edge::array(weights));
  const Tensor out = edge::empty(x, sizes(x));
  thrifty::moe::scatter_add_rows(op, edge::data(out), edge::torch_threads);
  return out;
}

}  // namespace
}  // namespace thrifty::moe::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def("token_topk(Tensor scores, int k) -> (Tensor weights, Tensor index)");
  m.def("gather_rows(Tensor x, Tensor index, Tensor? weights) -> Tensor");
  m.def("scatter_add_rows(Tensor x, Tensor index, Tensor src, Tensor? weights) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  m.impl("token_topk", TORCH_BOX(&thrifty::moe::ops::token_topk));
  m.impl("gather_rows", TORCH_BOX(&thrifty::moe::ops::gather_rows));
  m.impl("scatter_add_rows", TORCH_BOX(&thrifty::moe::ops::scatter_add_rows));
}
