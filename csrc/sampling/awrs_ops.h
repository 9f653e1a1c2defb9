// The torch ops of adaptive weighted rejection sampling and resampling, once for the CPU and for
// CUDA: checks, allocation, call.
//
// A Device says how a call is run:
//   check(op, name, tensor, first_name, first)  refuses a tensor that is elsewhere than the first
//   sample_candidates(op, logits, out), awrs_sample_dfa(...), awrs_weights(op, logp, out),
//   smc_resample(op, logw, out), awrs_coins(seeds, offsets, rows, k, like, coins)
#pragma once

#include <string>
#include <tuple>

#include "sampling/awrs_sample_dfa.h"
#include "sampling/awrs_weights.h"
#include "sampling/edge.h"
#include "sampling/sample_candidates.h"
#include "sampling/smc_resample.h"

namespace thrifty::sampling::ops {

template <class Device>
struct AwrsOps {
  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> sample_candidates(
      const Tensor& logits, int64_t k, const OptionalTensor& bitmask,
      const OptionalTensor& mask_rows, const OptionalTensor& inv_temperature,
      const OptionalTensor& drawn, const Tensor& seeds, const Tensor& offsets) {
    SameDevice<Device>("sample_candidates", "logits", logits)("bitmask", bitmask)(
        "mask_rows", mask_rows)("inv_temperature", inv_temperature)("drawn", drawn)("seeds", seeds)(
        "offsets", offsets);
    const BatchTensors batch(logits, bitmask, mask_rows, inv_temperature);
    const OptionalTensor before = edge::dense(drawn);
    const Tensor keys = edge::dense(seeds), counts = edge::dense(offsets);
    const SampleCandidates op = check_sample_candidates({.batch = batch.args("sample_candidates"),
                                                         .k = k,
                                                         .drawn = edge::array(before),
                                                         .seeds = edge::array(keys),
                                                         .offsets = edge::array(counts)});
    const int64_t rows = op.batch.rows;
    Tensor ids = matrix(logits, rows, op.k, ScalarType::Int);
    Tensor logp = matrix(logits, rows, op.k, ScalarType::Float);
    Tensor log_rest = matrix(logits, rows, op.k, ScalarType::Float);
    Tensor log_tail = per_row(logits, rows, ScalarType::Float);
    Tensor lse = per_row(logits, rows, ScalarType::Float);
    Tensor status = per_row(logits, rows, ScalarType::Int);
    Device::sample_candidates(op, logits,
                              {data<int32_t>(ids), data<float>(logp), data<float>(log_rest),
                               data<float>(log_tail), data<float>(lse), data<int32_t>(status)});
    return {ids, logp, log_rest, log_tail, lse, status};
  }

  static Tensor awrs_coins(const Tensor& seeds, const Tensor& offsets, int64_t k) {
    SameDevice<Device>("awrs_coins", "seeds", seeds)("offsets", offsets);
    const Tensor keys = edge::dense(seeds), counts = edge::dense(offsets);
    const Array array = edge::array(keys);
    const int64_t rows = array.numel();
    const int64_t* key = check_seeds("awrs_coins", "seeds", array, rows);
    const int64_t* count = check_seeds("awrs_coins", "offsets", edge::array(counts), rows);
    THRIFTY_CHECK(k >= 0, "awrs_coins: k: expected a number of coins, got ", k);
    Tensor coins = matrix(seeds, rows, k, ScalarType::Double);
    Device::awrs_coins(key, count, rows, k, seeds, data<double>(coins));
    return coins;
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> awrs_weights(
      const Tensor& allowed_, const Tensor& logp_, const Tensor& log_rest_, const Tensor& log_tail_,
      const OptionalTensor& coins_, const std::string& estimator, int64_t extra, int64_t budget) {
    SameDevice<Device>("awrs_weights", "logp", logp_)("allowed", allowed_)("log_rest", log_rest_)(
        "log_tail", log_tail_)("coins", coins_);
    const Tensor allowed = edge::dense(allowed_), logp = edge::dense(logp_),
                 log_rest = edge::dense(log_rest_), log_tail = edge::dense(log_tail_);
    const OptionalTensor coins = edge::dense(coins_);
    const AwrsWeights problem = check_awrs_weights({.allowed = edge::array(allowed),
                                                    .logp = edge::array(logp),
                                                    .log_rest = edge::array(log_rest),
                                                    .log_tail = edge::array(log_tail),
                                                    .coins = edge::array(coins),
                                                    .estimator = estimator,
                                                    .extra = extra,
                                                    .budget = budget});
    const int64_t n = problem.rows;
    Tensor pos = per_row(logp, n, ScalarType::Int), logw = edge::empty(logp, {n}),
           need_more = per_row(logp, n, ScalarType::Bool),
           n_checked = per_row(logp, n, ScalarType::Int);
    const AwrsWeightsOut out{data<int32_t>(pos), edge::data(logw), data<uint8_t>(need_more),
                             data<int32_t>(n_checked)};
    Device::awrs_weights(problem, logp, out);
    return {pos, logw, need_more, n_checked};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> awrs_sample_dfa(
      const Tensor& logits, const Tensor& next_, const Tensor& accepting_,
      const Tensor& tok_offsets_, const Tensor& tok_bytes_, const Tensor& eos_ids_,
      const Tensor& state_, const OptionalTensor& inv_temperature, const Tensor& seeds,
      const Tensor& offsets, const std::string& estimator, int64_t extra, int64_t budget,
      int64_t fallback_token) {
    SameDevice<Device>("awrs_sample_dfa", "logits", logits)("next", next_)("accepting", accepting_)(
        "tok_offsets", tok_offsets_)("tok_bytes", tok_bytes_)("eos_ids", eos_ids_)("state", state_)(
        "inv_temperature", inv_temperature)("seeds", seeds)("offsets", offsets);
    const BatchTensors batch(logits, std::nullopt, std::nullopt, inv_temperature);
    const Tensor next = edge::dense(next_), accepting = edge::dense(accepting_),
                 tok_offsets = edge::dense(tok_offsets_), tok_bytes = edge::dense(tok_bytes_),
                 eos_ids = edge::dense(eos_ids_), state = edge::dense(state_),
                 keys = edge::dense(seeds), counts = edge::dense(offsets);
    const AwrsSampleDfa op = check_awrs_sample_dfa({.batch = batch.args("awrs_sample_dfa"),
                                                    .dfa = {.next = edge::array(next),
                                                            .accepting = edge::array(accepting),
                                                            .offsets = edge::array(tok_offsets),
                                                            .bytes = edge::array(tok_bytes),
                                                            .eos_ids = edge::array(eos_ids)},
                                                    .state = edge::array(state),
                                                    .seeds = edge::array(keys),
                                                    .offsets = edge::array(counts),
                                                    .estimator = estimator,
                                                    .extra = extra,
                                                    .budget = budget,
                                                    .fallback_token = fallback_token});
    const int64_t rows = op.batch.rows;
    Tensor token = per_row(logits, rows, ScalarType::Long);
    Tensor logw = per_row(logits, rows, ScalarType::Float);
    Tensor new_state = per_row(logits, rows, ScalarType::Int);
    Tensor n_checked = per_row(logits, rows, ScalarType::Int);
    Tensor status = per_row(logits, rows, ScalarType::Int);
    Device::awrs_sample_dfa(op, logits,
                            {data<int64_t>(token), data<float>(logw), data<int32_t>(new_state),
                             data<int32_t>(n_checked), data<int32_t>(status)});
    return {token, logw, new_state, n_checked, status};
  }

  static std::tuple<Tensor, Tensor, Tensor, Tensor> smc_resample(const Tensor& logw_,
                                                                 const Tensor& seeds_,
                                                                 const Tensor& offsets_,
                                                                 const std::string& method,
                                                                 double ess_threshold) {
    SameDevice<Device>("smc_resample", "logw", logw_)("seeds", seeds_)("offsets", offsets_);
    const Tensor logw = edge::dense(logw_), seeds = edge::dense(seeds_),
                 offsets = edge::dense(offsets_);
    const SmcResample problem = check_smc_resample({.logw = edge::array(logw),
                                                    .seeds = edge::array(seeds),
                                                    .offsets = edge::array(offsets),
                                                    .method = method,
                                                    .ess_threshold = ess_threshold});
    const int64_t p = problem.populations, n = problem.particles;
    Tensor ancestors = matrix(logw, p, n, ScalarType::Long), fresh = edge::empty(logw, {p, n}),
           ess = edge::empty(logw, {p}), increment = edge::empty(logw, {p});
    const SmcResampleOut out{data<int64_t>(ancestors), edge::data(fresh), edge::data(ess),
                             edge::data(increment)};
    Device::smc_resample(problem, logw, out);
    return {ancestors, fresh, ess, increment};
  }
};

}  // namespace thrifty::sampling::ops

// The kernels for one dispatch key, inside STABLE_TORCH_LIBRARY_IMPL(thrifty, key, m).
#define THRIFTY_IMPL_AWRS_OPS(m, Device)                               \
  using AwrsOps = ::thrifty::sampling::ops::AwrsOps<Device>;           \
  m.impl("sample_candidates", TORCH_BOX(&AwrsOps::sample_candidates)); \
  m.impl("awrs_coins", TORCH_BOX(&AwrsOps::awrs_coins));               \
  m.impl("awrs_sample_dfa", TORCH_BOX(&AwrsOps::awrs_sample_dfa));     \
  m.impl("awrs_weights", TORCH_BOX(&AwrsOps::awrs_weights));           \
  m.impl("smc_resample", TORCH_BOX(&AwrsOps::smc_resample))
