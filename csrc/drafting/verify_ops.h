// The torch ops of verification, once for the CPU and for CUDA: checks, allocation, call.
//
// A Device says how a call is run:
//   check(op, name, tensor, logits)  refuses a tensor that is elsewhere than the logits
//   row_stats(call, logits, out), verify_tree(...), verify_chain(...)
#pragma once

#include <string>
#include <tuple>

#include "drafting/verify.h"
#include "torch/edge.h"

namespace thrifty::drafting::ops {

using edge::OptionalTensor;
using edge::ScalarType;
using edge::Tensor;

// Contiguous tensors, and the checks' view of them.
struct SettingTensors {
  OptionalTensor temperature, top_k, top_p, min_p, seed, offset;

  SettingTensors(const OptionalTensor& temperature, const OptionalTensor& top_k,
                 const OptionalTensor& top_p, const OptionalTensor& min_p,
                 const OptionalTensor& seed, const OptionalTensor& offset)
      : temperature(edge::dense(temperature)),
        top_k(edge::dense(top_k)),
        top_p(edge::dense(top_p)),
        min_p(edge::dense(min_p)),
        seed(edge::dense(seed)),
        offset(edge::dense(offset)) {}

  SettingArgs args() const {
    return {edge::array(temperature), edge::array(top_k), edge::array(top_p),
            edge::array(min_p),       edge::array(seed),  edge::array(offset)};
  }

  template <class Device>
  void check(const std::string& op, const Tensor& logits) const {
    const auto one = [&](const char* name, const OptionalTensor& tensor) {
      if (tensor) Device::check(op, name, *tensor, logits);
    };
    one("temperature", temperature), one("top_k", top_k), one("top_p", top_p);
    one("min_p", min_p), one("seed", seed), one("offset", offset);
  }
};

template <class Device>
struct VerifyOps {
  using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
  using Six = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

  static Tensor ints(const Tensor& like, const std::vector<int64_t>& shape) {
    return torch::stable::new_empty(like, shape, ScalarType::Int);
  }
  static Tensor floats(const Tensor& like, const std::vector<int64_t>& shape) {
    return torch::stable::new_empty(like, shape, ScalarType::Float);
  }
  template <class T>
  static T* pointer(const Tensor& tensor) {
    return static_cast<T*>(edge::data(tensor));
  }

  static Five row_stats(const Tensor& logits, const OptionalTensor& exclude,
                        const OptionalTensor& temperature, const OptionalTensor& top_k,
                        const OptionalTensor& top_p, const OptionalTensor& min_p,
                        const OptionalTensor& seed, const OptionalTensor& offset, int64_t k) {
    const SettingTensors settings(temperature, top_k, top_p, min_p, seed, offset);
    const OptionalTensor excluded = edge::dense(exclude);
    if (excluded) Device::check("row_stats", "exclude", *excluded, logits);
    settings.check<Device>("row_stats", logits);
    const Tensor rows = edge::dense_rows(logits);
    const RowStats call = check_row_stats({.logits = edge::array(rows),
                                           .exclude = edge::array(excluded),
                                           .settings = settings.args(),
                                           .k = k,
                                           .on_device = !logits.is_cpu()});
    const int64_t n = call.logits.rows;
    Tensor lse = floats(logits, {n}), ids = ints(logits, {n, k}), probs = floats(logits, {n, k});
    Tensor draw = ints(logits, {n}), status = ints(logits, {n});
    if (n > 0) {
      Device::row_stats(call, logits,
                        {.lse = pointer<float>(lse),
                         .topk_ids = pointer<int32_t>(ids),
                         .topk_probs = pointer<float>(probs),
                         .draw = pointer<int32_t>(draw),
                         .status = pointer<int32_t>(status)});
    }
    return {lse, ids, probs, draw, status};
  }

  struct Results {
    Tensor tokens, lengths, path, ids, probs, status;
    VerifyOut out() const {
      return {.tokens = pointer<int32_t>(tokens),
              .lengths = pointer<int32_t>(lengths),
              .path = pointer<int32_t>(path),
              .topk_ids = pointer<int32_t>(ids),
              .topk_probs = pointer<float>(probs),
              .status = pointer<int32_t>(status)};
    }
    Six tuple() const { return {tokens, lengths, path, ids, probs, status}; }
  };

  static Results results(const Tensor& like, int64_t batch, int64_t width, int64_t rows,
                         int64_t k) {
    return {ints(like, {batch, width}),     ints(like, {batch}),
            ints(like, {batch, width}),     ints(like, {batch, rows, k}),
            floats(like, {batch, rows, k}), ints(like, {batch})};
  }

  static Six verify_tree(const Tensor& logits, const Tensor& tokens_, const Tensor& first_child_,
                         const Tensor& next_sibling_, const Tensor& q_ids_, const Tensor& q_,
                         const OptionalTensor& temperature, const OptionalTensor& top_k,
                         const OptionalTensor& top_p, const OptionalTensor& min_p,
                         const OptionalTensor& seed, const OptionalTensor& offset,
                         const std::string& rule, int64_t max_depth, int64_t k, bool all_rows) {
    const SettingTensors settings(temperature, top_k, top_p, min_p, seed, offset);
    const Tensor tokens = edge::dense(tokens_), first_child = edge::dense(first_child_),
                 next_sibling = edge::dense(next_sibling_), q_ids = edge::dense(q_ids_),
                 q = edge::dense(q_), rows = edge::dense_rows(logits);
    settings.check<Device>("verify_tree", logits);
    Device::check("verify_tree", "tokens", tokens, logits);
    Device::check("verify_tree", "first_child", first_child, logits);
    Device::check("verify_tree", "next_sibling", next_sibling, logits);
    Device::check("verify_tree", "q_ids", q_ids, logits);
    Device::check("verify_tree", "q", q, logits);
    const VerifyTree call = check_verify_tree({.logits = edge::array(rows),
                                               .tokens = edge::array(tokens),
                                               .first_child = edge::array(first_child),
                                               .next_sibling = edge::array(next_sibling),
                                               .q_ids = edge::array(q_ids),
                                               .q = edge::array(q),
                                               .settings = settings.args(),
                                               .rule = rule,
                                               .max_depth = max_depth,
                                               .k = k,
                                               .all_rows = all_rows,
                                               .on_device = !logits.is_cpu()});
    const int64_t batch = call.logits.batch;
    const Results out =
        results(logits, batch, max_depth + 1, all_rows ? call.logits.rows : max_depth + 1, k);
    if (batch > 0) Device::verify_tree(call, logits, out.out());
    return out.tuple();
  }

  static Six verify_chain(const Tensor& logits, const Tensor& tokens_, const OptionalTensor& lens_,
                          const OptionalTensor& q_ids_, const OptionalTensor& q_,
                          const OptionalTensor& temperature, const OptionalTensor& top_k,
                          const OptionalTensor& top_p, const OptionalTensor& min_p,
                          const OptionalTensor& seed, const OptionalTensor& offset,
                          const std::string& method, int64_t k) {
    const SettingTensors settings(temperature, top_k, top_p, min_p, seed, offset);
    const Tensor tokens = edge::dense(tokens_), rows = edge::dense_rows(logits);
    const OptionalTensor lens = edge::dense(lens_), q_ids = edge::dense(q_ids_),
                         q = edge::dense(q_);
    settings.check<Device>("verify_chain", logits);
    Device::check("verify_chain", "tokens", tokens, logits);
    if (lens) Device::check("verify_chain", "lens", *lens, logits);
    if (q_ids) Device::check("verify_chain", "q_ids", *q_ids, logits);
    if (q) Device::check("verify_chain", "q", *q, logits);
    const VerifyChain call = check_verify_chain({.logits = edge::array(rows),
                                                 .tokens = edge::array(tokens),
                                                 .lens = edge::array(lens),
                                                 .q_ids = edge::array(q_ids),
                                                 .q = edge::array(q),
                                                 .settings = settings.args(),
                                                 .method = method,
                                                 .k = k,
                                                 .on_device = !logits.is_cpu()});
    const int64_t batch = call.logits.batch, width = call.length + 1;
    const Results out = results(logits, batch, width, width, k);
    if (batch > 0) Device::verify_chain(call, logits, out.out());
    return out.tuple();
  }
};

}  // namespace thrifty::drafting::ops

// The kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_VERIFY_OPS(m, Device)                       \
  using VerifyOps = ::thrifty::drafting::ops::VerifyOps<Device>; \
  m.impl("row_stats", TORCH_BOX(&VerifyOps::row_stats));         \
  m.impl("verify_tree", TORCH_BOX(&VerifyOps::verify_tree));     \
  m.impl("verify_chain", TORCH_BOX(&VerifyOps::verify_chain))
