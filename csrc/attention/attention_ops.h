// hyper_core and hyper_attention as torch ops, once for the CPU and for CUDA: checks, allocation,
// call.
//
// A Device says how a call is run:
//   check(op, name, tensor, first_name, first)  refuses a tensor that is elsewhere than the first
//   cuts(op, name, cu)                          where sequences begin, in memory that is read here
//   kOnDevice                                   integers of a plan are not read here
//   fwd(hyper, queries, like, out, lse)         out and lse written
//   bwd(hyper, queries, like, grads)            gradients written, of a list that is given added
//   clear(sums)                                 for what bwd adds to
#pragma once

#include <tuple>

#include "attention/check.h"
#include "torch/edge.h"

namespace thrifty::attention::ops {

using edge::integers;
using edge::ints;
using edge::OptionalTensor;
using edge::SameDevice;
using edge::sums;
using edge::Tensor;
using torch::headeronly::ScalarType;

inline std::byte* bytes(const Tensor& tensor) {
  return static_cast<std::byte*>(edge::data(tensor));
}

// hyper_core's, by item: order [B, Hq, Nq], offsets [B, Hq, W + 1].
struct CoreQueries {
  const int32_t *order = nullptr, *offsets = nullptr;
};

// Holds what the Hyper points into.
template <class Device>
struct CoreTensors {
  Tensor q, k, v, q_order, q_offsets, k_order, windows;
  OptionalTensor list_k, list_v, list_logw, list_range, list_var;
  std::vector<int32_t> q_window;
  Hyper hyper;

  CoreTensors(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& q_order_,
              const Tensor& q_offsets_, const Tensor& k_order_, const Tensor& windows_,
              const OptionalTensor& list_k_, const OptionalTensor& list_v_,
              const OptionalTensor& list_logw_, const OptionalTensor& list_range_,
              const OptionalTensor& list_var_, double scale)
      : q(edge::dense_rows(q_)),
        k(edge::dense_rows(k_)),
        v(edge::dense_rows(v_)),
        q_order(edge::dense(q_order_)),
        q_offsets(edge::dense(q_offsets_)),
        k_order(edge::dense(k_order_)),
        windows(edge::dense(windows_)),
        list_k(edge::dense(list_k_)),
        list_v(edge::dense(list_v_)),
        list_logw(edge::dense(list_logw_)),
        list_range(edge::dense(list_range_)),
        list_var(edge::dense(list_var_)) {
    SameDevice<Device>("hyper_core", "q", q)("k", k)("v", v)("q_order", q_order)(
        "q_offsets", q_offsets)("k_order", k_order)("windows", windows)("list_k", list_k)(
        "list_v", list_v)("list_logw", list_logw)("list_range", list_range)("list_var", list_var);
    hyper = check_core({edge::array(q), edge::array(k), edge::array(v), edge::array(q_order),
                        edge::array(q_offsets), edge::array(k_order), edge::array(windows),
                        edge::array(list_k), edge::array(list_v), edge::array(list_logw),
                        edge::array(list_range), edge::array(list_var), scale},
                       q_window, Device::kOnDevice);
  }
  CoreQueries queries() const { return {ints(q_order), ints(q_offsets)}; }
};

template <class Device>
struct AttentionTensors {
  Tensor q, k, v, order, offsets, q_window, samples;
  Hyper hyper;

  AttentionTensors(const Tensor& q_, const Tensor& k_, const Tensor& v_, const Tensor& order_,
                   const Tensor& offsets_, const Tensor& q_window_, const Tensor& samples_,
                   const OptionalTensor& cu_q_, const OptionalTensor& cu_k_, double scale,
                   const RecipeArgs& recipe)
      : q(edge::dense_rows(q_)),
        k(edge::dense_rows(k_)),
        v(edge::dense_rows(v_)),
        order(edge::dense(order_)),
        offsets(edge::dense(offsets_)),
        q_window(edge::dense(q_window_)),
        samples(edge::dense(samples_)) {
    constexpr const char* op = "hyper_attention";
    SameDevice<Device>(op, "q", q)("k", k)("v", v)("order", order)("offsets", offsets)(
        "q_window", q_window)("samples", samples);
    const OptionalTensor cu_q = Device::cuts(op, "cu_q", cu_q_),
                         cu_k = Device::cuts(op, "cu_k", cu_k_);
    Problem& p = hyper.problem;
    p = check_qkv(op, edge::array(q), edge::array(k), edge::array(v), scale);
    const Setup setup = check_setup(op, p, recipe, edge::array(cu_q), edge::array(cu_k));
    hyper.plan = check_plan(
        p, setup.layout, setup.args,
        {edge::array(order), edge::array(offsets), edge::array(q_window), edge::array(samples)},
        Device::kOnDevice);
  }
  CoreQueries queries() const { return {}; }
};

template <class Device, class Tensors>
std::tuple<Tensor, Tensor> forward(const Tensors& in) {
  const Problem& p = in.hyper.problem;
  const Tensor out = edge::empty(in.q, {p.batch, p.q_heads, p.nq, p.dv});
  const Tensor lse = sums(in.q, {p.batch, p.q_heads, p.nq});
  Device::fwd(in.hyper, in.queries(), in.q, bytes(out), bytes(lse));
  return {out, lse};
}

// dq, dk and dv; a list's gradients go to `given`.
template <class Device, class Tensors>
std::tuple<Tensor, Tensor, Tensor> backward(const char* op, const Tensors& in, const Tensor& dout_,
                                            const OptionalTensor& dlse_, const Tensor& out_,
                                            const Tensor& lse_, const GivenGrads& given) {
  SameDevice<Device>(op, "q", in.q)("dout", dout_)("dlse", dlse_)("out", out_)("lse", lse_);
  const Problem& p = in.hyper.problem;
  const Tensor dout = edge::dense_rows(dout_), out = edge::dense(out_), lse = edge::dense(lse_);
  const OptionalTensor dlse = edge::dense(dlse_);
  check_grads(op, p, edge::array(dout), edge::array(dlse), edge::array(out), edge::array(lse));
  const Tensor dq = edge::empty(in.q, {p.batch, p.q_heads, p.nq, p.d});
  const Tensor dk = edge::empty(in.q, {p.batch, p.k_heads, p.nk, p.d});
  const Tensor dv = edge::empty(in.q, {p.batch, p.k_heads, p.nk, p.dv});
  Device::bwd(in.hyper, in.queries(), in.q,
              {heads_of(edge::array(dout)), dlse ? bytes(*dlse) : nullptr, bytes(out), bytes(lse),
               bytes(dq), bytes(dk), bytes(dv), given});
  return {dq, dk, dv};
}

using CoreGrads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class Device>
struct AttentionOps {
  static std::tuple<Tensor, Tensor> core_fwd(
      const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_order,
      const Tensor& q_offsets, const Tensor& k_order, const Tensor& windows,
      const OptionalTensor& list_k, const OptionalTensor& list_v, const OptionalTensor& list_logw,
      const OptionalTensor& list_range, const OptionalTensor& list_var, double scale) {
    return forward<Device>(CoreTensors<Device>(q, k, v, q_order, q_offsets, k_order, windows,
                                               list_k, list_v, list_logw, list_range, list_var,
                                               scale));
  }

  // Gradients of the list are sums, absent ones without elements.
  static CoreGrads core_bwd(const Tensor& dout, const OptionalTensor& dlse, const Tensor& q,
                            const Tensor& k, const Tensor& v, const Tensor& q_order,
                            const Tensor& q_offsets, const Tensor& k_order, const Tensor& windows,
                            const OptionalTensor& list_k, const OptionalTensor& list_v,
                            const OptionalTensor& list_logw, const OptionalTensor& list_range,
                            const OptionalTensor& list_var, const Tensor& out, const Tensor& lse,
                            double scale) {
    const CoreTensors<Device> in(q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v,
                                 list_logw, list_range, list_var, scale);
    const Problem& p = in.hyper.problem;
    const int64_t entries = in.hyper.given.list.count;
    const auto list = [&](std::vector<int64_t> shape) {
      const Tensor grad = sums(in.q, list_k ? shape : std::vector<int64_t>{0});
      Device::clear(grad);
      return grad;
    };
    const Tensor dlist_k = list({p.batch, p.k_heads, entries, p.d});
    const Tensor dlist_v = list({p.batch, p.k_heads, entries, p.dv});
    const Tensor dlogw = list({p.batch, p.k_heads, entries});
    // Without var it is summed too, for nobody: kernels know one kind of list.
    const Tensor dvar = list({p.batch, p.k_heads, entries});
    const auto [dq, dk, dv] =
        backward<Device>("hyper_core", in, dout, dlse, out, lse,
                         {bytes(dlist_k), bytes(dlist_v), bytes(dlogw), bytes(dvar)});
    return {dq, dk, dv, dlist_k, dlist_v, dlogw, dvar};
  }

  static std::tuple<Tensor, Tensor> fwd(const Tensor& q, const Tensor& k, const Tensor& v,
                                        const Tensor& order, const Tensor& offsets,
                                        const Tensor& q_window, const Tensor& samples,
                                        const OptionalTensor& cu_q, const OptionalTensor& cu_k,
                                        const std::string& mode, bool causal, int64_t num_buckets,
                                        int64_t window, int64_t residual, int64_t keep,
                                        int64_t leaf, double scale) {
    return forward<Device>(
        AttentionTensors<Device>(q, k, v, order, offsets, q_window, samples, cu_q, cu_k, scale,
                                 {mode, causal, true, num_buckets, window, residual, keep, leaf}));
  }

  static std::tuple<Tensor, Tensor, Tensor> bwd(
      const Tensor& dout, const OptionalTensor& dlse, const Tensor& q, const Tensor& k,
      const Tensor& v, const Tensor& out, const Tensor& lse, const Tensor& order,
      const Tensor& offsets, const Tensor& q_window, const Tensor& samples,
      const OptionalTensor& cu_q, const OptionalTensor& cu_k, const std::string& mode, bool causal,
      int64_t num_buckets, int64_t window, int64_t residual, int64_t keep, int64_t leaf,
      double scale) {
    const AttentionTensors<Device> in(
        q, k, v, order, offsets, q_window, samples, cu_q, cu_k, scale,
        {mode, causal, true, num_buckets, window, residual, keep, leaf});
    return backward<Device>("hyper_attention", in, dout, dlse, out, lse, {});
  }
};

}  // namespace thrifty::attention::ops

#define THRIFTY_IMPL_ATTENTION_OPS(m, Device)                           \
  using AttentionOps = ::thrifty::attention::ops::AttentionOps<Device>; \
  m.impl("hyper_core_fwd", TORCH_BOX(&AttentionOps::core_fwd));         \
  m.impl("hyper_core_bwd", TORCH_BOX(&AttentionOps::core_bwd));         \
  m.impl("hyper_attention_fwd", TORCH_BOX(&AttentionOps::fwd));         \
  m.impl("hyper_attention_bwd", TORCH_BOX(&AttentionOps::bwd))
