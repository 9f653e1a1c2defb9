// torch.ops.thrifty.*: attention itself on CUDA, hyper_core and hyper_attention. The choice of keys
// is ops_cuda.cpp's.
#include <tuple>

#include "attention/check.h"
#include "attention/cuts_cuda.h"
#include "attention/hyper_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::attention::ops {
namespace {

using edge::OptionalTensor;
using edge::Tensor;
using torch::headeronly::ScalarType;

struct Device {
  static void check(const char* op, const char* name, const Tensor& tensor, const char* first_name,
                    const Tensor& first) {
    edge::check_device(op, name, tensor, first_name, first);
  }
};
using SameDevice = edge::SameDevice<Device>;

Tensor sums(const Tensor& like, std::vector<int64_t> shape) {
  const bool wide = edge::dtype_of(like) == Dtype::kFloat64;
  return torch::stable::new_empty(like, shape, wide ? ScalarType::Double : ScalarType::Float);
}

std::byte* bytes(const Tensor& tensor) { return static_cast<std::byte*>(edge::data(tensor)); }
const int32_t* ints(const Tensor& tensor) { return static_cast<int32_t*>(edge::data(tensor)); }

std::tuple<Tensor, Tensor> forward(const cuda::HyperCall& call, const Tensor& q) {
  const Problem& p = call.hyper.problem;
  const Tensor out = edge::empty(q, {p.batch, p.q_heads, p.nq, p.dv});
  const Tensor lse = sums(q, {p.batch, p.q_heads, p.nq});
  edge::run_on(q, cuda::hyper_fwd_scratch(call), [&](void* scratch, cudaStream_t stream) {
    return cuda::hyper_fwd(call, edge::data(out), edge::data(lse), scratch, stream);
  });
  return {out, lse};
}

// dq, dk and dv; a list's gradients go to `given`.
std::tuple<Tensor, Tensor, Tensor> backward(const char* op, const cuda::HyperCall& call,
                                            const Tensor& dout_, const OptionalTensor& dlse_,
                                            const Tensor& out_, const Tensor& lse_, const Tensor& q,
                                            const GivenGrads& given) {
  const Problem& p = call.hyper.problem;
  const Tensor dout = edge::dense_rows(dout_), out = edge::dense(out_), lse = edge::dense(lse_);
  const OptionalTensor dlse = edge::dense(dlse_);
  check_grads(op, p, edge::array(dout), edge::array(dlse), edge::array(out), edge::array(lse));
  const Tensor dq = edge::empty(q, {p.batch, p.q_heads, p.nq, p.d});
  const Tensor dk = edge::empty(q, {p.batch, p.k_heads, p.nk, p.d});
  const Tensor dv = edge::empty(q, {p.batch, p.k_heads, p.nk, p.dv});
  const BackwardArgs grads{heads_of(edge::array(dout)),
                           dlse ? bytes(*dlse) : nullptr,
                           bytes(out),
                           bytes(lse),
                           bytes(dq),
                           bytes(dk),
                           bytes(dv),
                           given};
  edge::run_on(q, cuda::hyper_bwd_scratch(call), [&](void* scratch, cudaStream_t stream) {
    return cuda::hyper_bwd(call, grads, scratch, stream);
  });
  return {dq, dk, dv};
}

// ---- hyper_core

struct CoreTensors {
  Tensor q, k, v, q_order, q_offsets, k_order, windows;
  OptionalTensor list_k, list_v, list_logw, list_range, list_var;
  cuda::HyperCall call;

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
    SameDevice("hyper_core", "q", q)("k", k)("v", v)("q_order", q_order)("q_offsets", q_offsets)(
        "k_order", k_order)("windows", windows)("list_k", list_k)("list_v", list_v)(
        "list_logw", list_logw)("list_range", list_range)("list_var", list_var);
    std::vector<int32_t> none;
    call.hyper = check_core({edge::array(q), edge::array(k), edge::array(v), edge::array(q_order),
                             edge::array(q_offsets), edge::array(k_order), edge::array(windows),
                             edge::array(list_k), edge::array(list_v), edge::array(list_logw),
                             edge::array(list_range), edge::array(list_var), scale},
                            none, true);
    call.q_order = ints(q_order), call.q_offsets = ints(q_offsets);
  }
};

std::tuple<Tensor, Tensor> hyper_core_fwd(
    const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& q_order,
    const Tensor& q_offsets, const Tensor& k_order, const Tensor& windows,
    const OptionalTensor& list_k, const OptionalTensor& list_v, const OptionalTensor& list_logw,
    const OptionalTensor& list_range, const OptionalTensor& list_var, double scale) {
  const CoreTensors in(q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw,
                       list_range, list_var, scale);
  return forward(in.call, in.q);
}

using CoreGrads = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

CoreGrads hyper_core_bwd(const Tensor& dout, const OptionalTensor& dlse, const Tensor& q,
                         const Tensor& k, const Tensor& v, const Tensor& q_order,
                         const Tensor& q_offsets, const Tensor& k_order, const Tensor& windows,
                         const OptionalTensor& list_k, const OptionalTensor& list_v,
                         const OptionalTensor& list_logw, const OptionalTensor& list_range,
                         const OptionalTensor& list_var, const Tensor& out, const Tensor& lse,
                         double scale) {
  SameDevice("hyper_core", "q", q)("dout", dout)("dlse", dlse)("out", out)("lse", lse);
  const CoreTensors in(q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw,
                       list_range, list_var, scale);
  const Problem& p = in.call.hyper.problem;
  const int64_t entries = in.call.hyper.given.list.count;
  const auto list = [&](std::vector<int64_t> shape) {
    return sums(q, list_k ? shape : std::vector<int64_t>{0});
  };
  const Tensor dlist_k = list({p.batch, p.k_heads, entries, p.d});
  const Tensor dlist_v = list({p.batch, p.k_heads, entries, p.dv});
  const Tensor dlogw = list({p.batch, p.k_heads, entries});
  const Tensor dvar = list({p.batch, p.k_heads, entries});
  const auto [dq, dk, dv] = backward("hyper_core", in.call, dout, dlse, out, lse, in.q,
                                     {bytes(dlist_k), bytes(dlist_v), bytes(dlogw), bytes(dvar)});
  return {dq, dk, dv, dlist_k, dlist_v, dlogw, dvar};
}

// ---- hyper_attention

struct AttentionTensors {
  Tensor q, k, v, order, offsets, q_window, samples;
  cuda::HyperCall call;

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
    SameDevice(op, "q", q)("k", k)("v", v)("order", order)("offsets", offsets)(
        "q_window", q_window)("samples", samples);
    const OptionalTensor cu_q = host_cuts(op, "cu_q", cu_q_), cu_k = host_cuts(op, "cu_k", cu_k_);
    Problem& p = call.hyper.problem;
    p = check_qkv(op, edge::array(q), edge::array(k), edge::array(v), scale);
    const Setup setup = check_setup(op, p, recipe, edge::array(cu_q), edge::array(cu_k));
    call.hyper.plan = check_plan(
        p, setup.layout, setup.args,
        {edge::array(order), edge::array(offsets), edge::array(q_window), edge::array(samples)},
        true);
  }
};

std::tuple<Tensor, Tensor> fwd(const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& order, const Tensor& offsets, const Tensor& q_window,
                               const Tensor& samples, const OptionalTensor& cu_q,
                               const OptionalTensor& cu_k, const std::string& mode, bool causal,
                               int64_t num_buckets, int64_t window, int64_t residual, int64_t keep,
                               int64_t leaf, double scale) {
  const AttentionTensors in(q, k, v, order, offsets, q_window, samples, cu_q, cu_k, scale,
                            {mode, causal, true, num_buckets, window, residual, keep, leaf});
  return forward(in.call, in.q);
}

std::tuple<Tensor, Tensor, Tensor> bwd(const Tensor& dout, const OptionalTensor& dlse,
                                       const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& out, const Tensor& lse, const Tensor& order,
                                       const Tensor& offsets, const Tensor& q_window,
                                       const Tensor& samples, const OptionalTensor& cu_q,
                                       const OptionalTensor& cu_k, const std::string& mode,
                                       bool causal, int64_t num_buckets, int64_t window,
                                       int64_t residual, int64_t keep, int64_t leaf, double scale) {
  constexpr const char* op = "hyper_attention";
  SameDevice(op, "q", q)("dout", dout)("dlse", dlse)("out", out)("lse", lse);
  const AttentionTensors in(q, k, v, order, offsets, q_window, samples, cu_q, cu_k, scale,
                            {mode, causal, true, num_buckets, window, residual, keep, leaf});
  return backward(op, in.call, dout, dlse, out, lse, in.q, {});
}

}  // namespace
}  // namespace thrifty::attention::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  m.impl("hyper_core_fwd", TORCH_BOX(&thrifty::attention::ops::hyper_core_fwd));
  m.impl("hyper_core_bwd", TORCH_BOX(&thrifty::attention::ops::hyper_core_bwd));
  m.impl("hyper_attention_fwd", TORCH_BOX(&thrifty::attention::ops::fwd));
  m.impl("hyper_attention_bwd", TORCH_BOX(&thrifty::attention::ops::bwd));
}
