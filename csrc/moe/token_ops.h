// The torch ops of token_rows.h, once for the CPU and for CUDA: checks, allocation, call.
//
// A Device has check(op, name, tensor, first_name, first), which refuses a tensor that is elsewhere
// than the first, and topk, gather, scatter.
#pragma once

#include <tuple>

#include "moe/token_rows.h"
#include "torch/edge.h"

namespace thrifty::moe::ops {

using edge::OptionalTensor;
using edge::SameDevice;
using edge::Tensor;

template <class Device>
struct TokenOps {
  static std::vector<int64_t> sizes(const Tensor& tensor) {
    return {tensor.sizes().begin(), tensor.sizes().end()};
  }

  static std::tuple<Tensor, Tensor> token_topk(const Tensor& scores_, int64_t k) {
    const Tensor scores = edge::dense(scores_);
    const TokenTopk topk = check_token_topk(edge::array(scores), k);
    std::vector<int64_t> shape = sizes(scores);
    shape.back() = k;
    const Tensor index = torch::stable::new_empty(scores, shape, edge::ScalarType::Long);
    const Tensor weights = edge::empty(scores, shape);
    Device::topk(topk, scores, edge::data(weights), static_cast<int64_t*>(edge::data(index)));
    return {weights, index};
  }

  static Tensor gather_rows(const Tensor& x_, const Tensor& index_,
                            const OptionalTensor& weights_) {
    SameDevice<Device>("gather_rows", "x", x_)("index", index_)("weights", weights_);
    const Tensor x = edge::dense(x_), index = edge::dense(index_);
    const OptionalTensor weights = edge::dense(weights_);
    const TokenRowsOp op =
        check_gather_rows(edge::array(x), edge::array(index), edge::array(weights));
    std::vector<int64_t> shape = sizes(index);
    shape.push_back(op.width);
    const Tensor out = edge::empty(x, shape);
    Device::gather(op, x, edge::data(out));
    return out;
  }

  static Tensor scatter_add_rows(const Tensor& x_, const Tensor& index_, const Tensor& src_,
                                 const OptionalTensor& weights_) {
    SameDevice<Device>("scatter_add_rows", "x", x_)("index", index_)("src", src_)("weights",
                                                                                  weights_);
    const Tensor x = edge::dense(x_), index = edge::dense(index_), src = edge::dense(src_);
    const OptionalTensor weights = edge::dense(weights_);
    const TokenRowsOp op = check_scatter_add_rows(edge::array(x), edge::array(index),
                                                  edge::array(src), edge::array(weights));
    const Tensor out = edge::empty(x, sizes(x));
    Device::scatter(op, x, edge::data(out));
    return out;
  }
};

}  // namespace thrifty::moe::ops

// The kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_TOKEN_OPS(m, Device)                   \
  using TokenOps = ::thrifty::moe::ops::TokenOps<Device>;   \
  m.impl("token_topk", TORCH_BOX(&TokenOps::token_topk));   \
  m.impl("gather_rows", TORCH_BOX(&TokenOps::gather_rows)); \
  m.impl("scatter_add_rows", TORCH_BOX(&TokenOps::scatter_add_rows))
