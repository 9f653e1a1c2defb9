// The torch ops of the moe family, once for the CPU and for CUDA: checks, allocation, call.
//
// A Device says how a call is run:
//   check(op, name, tensor, first_name, first)  refuses a tensor that is elsewhere than the first
//   check(route), check(product), check(mlp)    refuses what the kernels do not take
//   check_chosen(route, ids, n)                 refuses ids of a backward pass, where it can read
//   depth_lines(a)                              a 2d x 2d left operand as the kernels read it
//   bucket_sort, route_fwd, route_bwd, permute, grouped_mm, mlp_fwd, mlp_bwd
#pragma once

#include <tuple>

#include "moe/grouped_mm.h"
#include "moe/mlp.h"
#include "moe/route.h"
#include "torch/edge.h"

namespace thrifty::moe::ops {

using edge::integers;
using edge::ints;
using edge::OptionalTensor;
using edge::SameDevice;
using edge::sums;
using edge::Tensor;
using torch::headeronly::ScalarType;

// Matrices whose rows or whose columns are contiguous are read where they lie.
inline Tensor dense_lines(const Tensor& m) {
  const int64_t d = m.dim();
  const auto runs = [&](int64_t i) { return m.stride(i) == 1 || m.size(i) <= 1; };
  return d >= 2 && (runs(d - 1) || runs(d - 2)) ? m : edge::dense(m);
}

inline std::vector<int64_t> sizes(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

struct RouteTensors {
  Tensor logits;
  OptionalTensor bias, mask;
  RouteTensors(const Tensor& logits, const OptionalTensor& bias, const OptionalTensor& mask)
      : logits(edge::dense(logits)), bias(edge::dense(bias)), mask(edge::dense(mask)) {}
};

// Holds what the Mlp points into.
struct MlpTensors {
  Tensor x, w1, w2, ids, weights;
  OptionalTensor b1, b2, expert_map;
  Mlp mlp;

  MlpTensors(const Tensor& x, const Tensor& w1, const Tensor& w2, const Tensor& ids,
             const Tensor& weights, const OptionalTensor& b1, const OptionalTensor& b2,
             const OptionalTensor& expert_map, const std::string& activation, bool transposed,
             bool interleaved, double alpha, double limit)
      : x(edge::dense_rows(x)),
        w1(dense_lines(w1)),
        w2(dense_lines(w2)),
        ids(edge::dense(ids)),
        weights(edge::dense(weights)),
        b1(edge::dense(b1)),
        b2(edge::dense(b2)),
        expert_map(edge::dense(expert_map)),
        mlp(check_moe_mlp({.x = edge::array(this->x),
                           .w1 = edge::array(this->w1),
                           .w2 = edge::array(this->w2),
                           .ids = edge::array(this->ids),
                           .weights = edge::array(this->weights),
                           .b1 = edge::array(this->b1),
                           .b2 = edge::array(this->b2),
                           .expert_map = edge::array(this->expert_map),
                           .activation = activation,
                           .transposed = transposed,
                           .interleaved = interleaved,
                           .alpha = alpha,
                           .limit = limit})) {}
};

enum Needs : int64_t { kX = 1, kW1 = 2, kW2 = 4, kWeights = 8, kB1 = 16, kB2 = 32 };

template <class Device>
struct MoeOps {
  static std::tuple<Tensor, Tensor> bucket_sort(const Tensor& ids_, int64_t buckets) {
    const Array a = edge::array(ids_);
    const bool known =
        a.dtype == Dtype::kInt32 || a.dtype == Dtype::kInt64 || a.dtype == Dtype::kUInt8;
    THRIFTY_CHECK(known, "bucket_sort: ids: expected int32, int64 or uint8, got ",
                  dtype_name(a.dtype));
    constexpr int64_t kMax = (int64_t(1) << 31) - 1;
    THRIFTY_CHECK(a.ndim >= 1 && a.size(-1) <= kMax,
                  "bucket_sort: ids: expected shape (..., n) with n < 2^31, got ", shape_text(a));
    THRIFTY_CHECK(buckets >= 1 && buckets < kMax,
                  "bucket_sort: buckets: expected a positive number below 2^31 - 1, got ", buckets);
    const Tensor ids = edge::dense(ids_);
    std::vector<int64_t> shape = sizes(ids);
    const Tensor order = integers(ids, shape);
    const int64_t n = shape.back();
    shape.back() = buckets + 1;
    const Tensor offsets = integers(ids, shape);
    const int64_t rows = offsets.numel() / (buckets + 1);
    Device::bucket_sort(edge::array(ids), ids, rows, n, buckets, ints(order), ints(offsets));
    return {order, offsets};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> moe_route_fwd(
      const Tensor& logits, const OptionalTensor& bias, const OptionalTensor& mask, int64_t top_k,
      const std::string& score, bool renorm, double scale, int64_t n_group, int64_t topk_group,
      int64_t group_topn, bool stats, double threshold) {
    SameDevice<Device>("moe_route", "logits", logits)("bias", bias)("expert_mask", mask);
    const RouteTensors in(logits, bias, mask);
    const Route route = check_moe_route({.logits = edge::array(in.logits),
                                         .bias = edge::array(in.bias),
                                         .mask = edge::array(in.mask),
                                         .top_k = top_k,
                                         .score = score,
                                         .renorm = renorm,
                                         .scale = scale,
                                         .n_group = n_group,
                                         .topk_group = topk_group,
                                         .group_topn = group_topn,
                                         .threshold = threshold});
    Device::check(route);
    const Tensor weights = sums(logits, {route.tokens, top_k});
    const Tensor ids = integers(logits, {route.tokens, top_k});
    const Tensor score_sum = sums(logits, {stats ? route.experts : 0});
    const Tensor count = integers(logits, {stats ? route.experts : 0});
    Device::route_fwd(route, logits, edge::data(weights), ints(ids), edge::data(score_sum),
                      ints(count));
    return {weights, ids, score_sum, count};
  }

  static Tensor moe_route_bwd(const Tensor& grad, const Tensor& logits, const OptionalTensor& mask,
                              const Tensor& ids, const std::string& score, bool renorm,
                              double scale) {
    SameDevice<Device>("moe_route", "logits", logits)("grad", grad)("expert_mask", mask)("ids",
                                                                                         ids);
    const RouteTensors in(logits, {}, mask);
    const Array id = edge::array(ids), g = edge::array(grad);
    THRIFTY_CHECK(id.ndim == 2 && id.dtype == Dtype::kInt32 && id.shape[0] == logits.size(0),
                  "moe_route: ids: expected the int32 (T, K) that forward returned, got ",
                  dtype_name(id.dtype), " ", shape_text(id));
    const Route route = check_moe_route({.logits = edge::array(in.logits),
                                         .mask = edge::array(in.mask),
                                         .top_k = id.shape[1],
                                         .score = score,
                                         .renorm = renorm,
                                         .scale = scale});
    THRIFTY_CHECK(g.ndim == 2 && g.shape == id.shape && g.dtype == route.wide(),
                  "moe_route: grad: expected the shape and dtype of the weights, got ",
                  dtype_name(g.dtype), " ", shape_text(g));
    const Tensor dense_grad = edge::dense(grad), dense_ids = edge::dense(ids);
    Device::check(route);
    Device::check_chosen(route, ints(dense_ids), id.numel());
    const Tensor dlogits = edge::empty(logits, sizes(logits));
    Device::route_bwd(route, logits, edge::data(dense_grad), ints(dense_ids), edge::data(dlogits));
    return dlogits;
  }

  static std::tuple<Tensor, Tensor, Tensor> moe_permute(const Tensor& ids_, int64_t num_experts,
                                                        const OptionalTensor& expert_map_,
                                                        int64_t capacity,
                                                        const OptionalTensor& priority_) {
    SameDevice<Device>("moe_permute", "ids", ids_)("expert_map", expert_map_)("priority",
                                                                              priority_);
    const Tensor ids = edge::dense(ids_);
    const OptionalTensor expert_map = edge::dense(expert_map_), priority = edge::dense(priority_);
    const Permute permute = check_moe_permute(
        edge::array(ids), num_experts, edge::array(expert_map), capacity, edge::array(priority));
    const Tensor slot = integers(ids, {permute.slots()});
    const Tensor offsets = integers(ids, {num_experts + 1});
    const Tensor inverse = integers(ids, {permute.slots()});
    Device::permute(permute, ids, ints(slot), ints(offsets), ints(inverse));
    return {slot, offsets, inverse};
  }

  static Tensor grouped_mm(const Tensor& a_, const Tensor& b_, const Tensor& offs_,
                           const OptionalTensor& a_idx_, const OptionalTensor& bias_,
                           const OptionalTensor& row_scale_, const OptionalTensor& accumulate_,
                           bool float32_out) {
    SameDevice<Device>("grouped_mm", "a", a_)("b", b_)("offs", offs_)("a_idx", a_idx_)(
        "bias", bias_)("row_scale", row_scale_)("accumulate", accumulate_);
    const bool by_depth = b_.dim() == 2;
    const Tensor a = by_depth ? Device::depth_lines(a_) : edge::dense_rows(a_);
    const Tensor b = by_depth ? edge::dense_rows(b_) : dense_lines(b_);
    const Tensor offs = edge::dense(offs_);
    const OptionalTensor a_idx = edge::dense(a_idx_), bias = edge::dense(bias_),
                         row_scale = edge::dense(row_scale_);
    const OptionalTensor added =
        accumulate_ ? OptionalTensor(edge::dense_rows(*accumulate_)) : std::nullopt;
    const GroupedMm product = check_grouped_mm({.a = edge::array(a),
                                                .b = edge::array(b),
                                                .offs = edge::array(offs),
                                                .a_idx = edge::array(a_idx),
                                                .bias = edge::array(bias),
                                                .row_scale = edge::array(row_scale),
                                                .added = edge::array(added),
                                                .float32_out = float32_out,
                                                .on_device = Device::kOnDevice});
    Device::check(product);
    const Tensor out = float32_out
                           ? torch::stable::new_empty(a, product.out_shape(), ScalarType::Float)
                           : edge::empty(a, product.out_shape());
    Device::grouped_mm(product, a, edge::data(out));
    return out;
  }

  static SameDevice<Device> check_devices(const Tensor& x, const Tensor& w1, const Tensor& w2,
                                          const Tensor& ids, const Tensor& weights,
                                          const OptionalTensor& b1, const OptionalTensor& b2,
                                          const OptionalTensor& expert_map) {
    return SameDevice<Device>("moe_mlp", "x", x)("w1", w1)("w2", w2)("ids", ids)(
        "weights", weights)("b1", b1)("b2", b2)("expert_map", expert_map);
  }

  static std::tuple<Tensor, Tensor> moe_mlp_fwd(const Tensor& x, const Tensor& w1, const Tensor& w2,
                                                const Tensor& ids, const Tensor& weights,
                                                const OptionalTensor& b1, const OptionalTensor& b2,
                                                const OptionalTensor& expert_map,
                                                const std::string& activation, bool transposed,
                                                bool interleaved, double alpha, double limit,
                                                bool save_z) {
    check_devices(x, w1, w2, ids, weights, b1, b2, expert_map);
    const MlpTensors in(x, w1, w2, ids, weights, b1, b2, expert_map, activation, transposed,
                        interleaved, alpha, limit);
    Device::check(in.mlp);
    const Tensor out = edge::empty(x, {in.mlp.tokens, in.mlp.hidden});
    const Tensor z = edge::empty(x, {in.mlp.up_rows(), in.mlp.slots()}, save_z);
    Device::mlp_fwd(in.mlp, x, edge::data(out), edge::data(z));
    return {out, z};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> moe_mlp_bwd(
      const Tensor& grad, const Tensor& x, const Tensor& w1, const Tensor& w2, const Tensor& ids,
      const Tensor& weights, const OptionalTensor& b1, const OptionalTensor& b2,
      const OptionalTensor& expert_map, const Tensor& z, const std::string& activation,
      bool transposed, bool interleaved, double alpha, double limit, int64_t needs) {
    check_devices(x, w1, w2, ids, weights, b1, b2, expert_map)("grad", grad)("z", z);
    const MlpTensors in(x, w1, w2, ids, weights, b1, b2, expert_map, activation, transposed,
                        interleaved, alpha, limit);
    const Mlp& mlp = in.mlp;
    Device::check(mlp);
    const Array g = edge::array(grad), kept = edge::array(z);
    THRIFTY_CHECK(
        g.dtype == mlp.dtype && g.ndim == 2 && g.shape[0] == mlp.tokens && g.shape[1] == mlp.hidden,
        "moe_mlp: grad: expected dtype and shape of x, got ", dtype_name(g.dtype), " ",
        shape_text(g));
    const bool has_z = kept.ndim == 2;
    THRIFTY_CHECK(!has_z || (kept.dtype == mlp.dtype && kept.shape[0] == mlp.up_rows() &&
                             kept.shape[1] == mlp.slots()),
                  "moe_mlp: z: expected the z that forward saved, got ", dtype_name(kept.dtype),
                  " ", shape_text(kept));
    const Tensor dense_grad = edge::dense(grad), dense_z = edge::dense(z);
    const auto like = [&](const OptionalTensor& t, Needs need) {
      return edge::empty_like(x, t, needs & need);
    };
    const Tensor dx = like(x, kX), dw1 = like(w1, kW1), dw2 = like(w2, kW2);
    const Tensor dweights = like(weights, kWeights), db1 = like(b1, kB1), db2 = like(b2, kB2);
    Device::mlp_bwd(mlp, x, edge::data(dense_grad), has_z ? edge::data(dense_z) : nullptr,
                    {edge::data(dx), edge::data(dw1), edge::data(dw2), edge::data(dweights),
                     edge::data(db1), edge::data(db2)});
    return {dx, dw1, dw2, dweights, db1, db2};
  }
};

}  // namespace thrifty::moe::ops

// The kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_MOE_OPS(m, Device)                       \
  using MoeOps = ::thrifty::moe::ops::MoeOps<Device>;         \
  m.impl("bucket_sort", TORCH_BOX(&MoeOps::bucket_sort));     \
  m.impl("moe_route_fwd", TORCH_BOX(&MoeOps::moe_route_fwd)); \
  m.impl("moe_route_bwd", TORCH_BOX(&MoeOps::moe_route_bwd)); \
  m.impl("moe_permute", TORCH_BOX(&MoeOps::moe_permute));     \
  m.impl("grouped_mm", TORCH_BOX(&MoeOps::grouped_mm));       \
  m.impl("moe_mlp_fwd", TORCH_BOX(&MoeOps::moe_mlp_fwd));     \
  m.impl("moe_mlp_bwd", TORCH_BOX(&MoeOps::moe_mlp_bwd))
