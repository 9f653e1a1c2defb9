// Adaptive weighted rejection sampling, byte automata and resampling on NumPy arrays.
#include <algorithm>

#include "python/numpy_edge.h"
#include "sampling/awrs_sample.h"
#include "sampling/awrs_sample_dfa.h"
#include "sampling/awrs_weights.h"
#include "sampling/byte_automaton.h"
#include "sampling/byte_dfa.h"
#include "sampling/sample_candidates.h"
#include "sampling/smc_resample.h"

namespace thrifty::python {
namespace {

using namespace thrifty::sampling;

template <class T>
py::array_t<T> vector(int64_t n) {
  return py::array_t<T>(py::ssize_t(n));
}

py::tuple awrs_weights(const py::array& allowed_, const py::array& logp_,
                       const py::array& log_rest_, const py::array& log_tail_,
                       const OptionalArray& coins_, const std::string& estimator, int64_t extra,
                       int64_t budget) {
  const py::array allowed = dense(allowed_), logp = dense(logp_), log_rest = dense(log_rest_),
                  log_tail = dense(log_tail_);
  const OptionalArray coins = dense(coins_);
  const AwrsWeights problem = check_awrs_weights({.allowed = view(allowed),
                                                  .logp = view(logp),
                                                  .log_rest = view(log_rest),
                                                  .log_tail = view(log_tail),
                                                  .coins = view(coins),
                                                  .estimator = estimator,
                                                  .extra = extra,
                                                  .budget = budget});
  auto pos = vector<int32_t>(problem.rows), n_checked = vector<int32_t>(problem.rows);
  auto need_more = vector<bool>(problem.rows);
  py::array logw = empty(logp, {problem.rows});
  const AwrsWeightsOut out{pos.mutable_data(), logw.mutable_data(),
                           reinterpret_cast<uint8_t*>(need_more.mutable_data()),
                           n_checked.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    sampling::awrs_weights(problem, out, pool);
  }
  return py::make_tuple(pos, logw, need_more, n_checked);
}

py::tuple sample_candidates(const py::array& logits_, int64_t k, const OptionalArray& bitmask_,
                            const OptionalArray& mask_rows_, const OptionalArray& inv_temperature_,
                            const OptionalArray& drawn_, const py::array& seeds_,
                            const py::array& offsets_) {
  const py::array logits = dense(logits_), seeds = dense(seeds_), offsets = dense(offsets_);
  const OptionalArray bitmask = dense(bitmask_), mask_rows = dense(mask_rows_),
                      inv_temperature = dense(inv_temperature_), drawn = dense(drawn_);
  const auto op = check_sample_candidates({.batch = {.op = "sample_candidates",
                                                     .logits = view(logits),
                                                     .bitmask = view(bitmask),
                                                     .mask_rows = view(mask_rows),
                                                     .inv_temperature = view(inv_temperature)},
                                           .k = k,
                                           .drawn = view(drawn),
                                           .seeds = view(seeds),
                                           .offsets = view(offsets)});
  const int64_t rows = op.batch.rows;
  py::array_t<int32_t> ids({rows, op.k});
  py::array_t<float> logp({rows, op.k}), log_rest({rows, op.k});
  auto log_tail = vector<float>(rows), lse = vector<float>(rows);
  auto status = vector<int32_t>(rows);
  const SampleCandidatesOut out{ids.mutable_data(),      logp.mutable_data(),
                                log_rest.mutable_data(), log_tail.mutable_data(),
                                lse.mutable_data(),      status.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    sampling::sample_candidates(op, out, pool);
  }
  return py::make_tuple(ids, logp, log_rest, log_tail, lse, status);
}

py::tuple smc_resample(const py::array& logw_, const py::array& seeds_, const py::array& offsets_,
                       const std::string& method, double ess_threshold) {
  const py::array logw = dense(logw_), seeds = dense(seeds_), offsets = dense(offsets_);
  const SmcResample problem = check_smc_resample({.logw = view(logw),
                                                  .seeds = view(seeds),
                                                  .offsets = view(offsets),
                                                  .method = method,
                                                  .ess_threshold = ess_threshold});
  py::array_t<int64_t> ancestors({problem.populations, problem.particles});
  py::array fresh = empty(logw, {problem.populations, problem.particles});
  py::array ess = empty(logw, {problem.populations}),
            increment = empty(logw, {problem.populations});
  const SmcResampleOut out{ancestors.mutable_data(), fresh.mutable_data(), ess.mutable_data(),
                           increment.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    sampling::smc_resample(problem, out, pool);
  }
  return py::make_tuple(ancestors, fresh, ess, increment);
}

py::tuple byte_dfa(int64_t states, int32_t accept, const py::array& bytes_, const py::array& glue_,
                   int64_t max_states) {
  const py::array bytes = dense(bytes_), glue = dense(glue_);
  const Nfa nfa = check_nfa(states, accept, view(bytes), view(glue));
  Dfa dfa;
  {
    const py::gil_scoped_release nogil;
    dfa = determinise(nfa, max_states);
  }
  py::array_t<int32_t> next({int64_t(dfa.next.size()), int64_t(256)});
  auto accepting = vector<uint8_t>(int64_t(dfa.accepting.size()));
  if (!dfa.next.empty()) {
    std::copy_n(dfa.next.front().data(), 256 * dfa.next.size(), next.mutable_data());
  }
  std::copy(dfa.accepting.begin(), dfa.accepting.end(), accepting.mutable_data());
  return py::make_tuple(next, accepting);
}

// The arrays of a ByteDFA, which has checked that they are contiguous.
ByteDfa automaton(const char* op, const py::array& next, const py::array& accepting,
                  const py::array& offsets, const py::array& bytes, const py::array& eos_ids) {
  return check_byte_dfa(op, {.next = view(next),
                             .accepting = view(accepting),
                             .offsets = view(offsets),
                             .bytes = view(bytes),
                             .eos_ids = view(eos_ids)});
}

py::array_t<int32_t> byte_dfa_step(const py::array& next, const py::array& accepting,
                                   const py::array& offsets, const py::array& bytes,
                                   const py::array& eos_ids, int32_t state,
                                   const py::array_t<int64_t, py::array::c_style>& ids) {
  const ByteDfa dfa = automaton("states_after", next, accepting, offsets, bytes, eos_ids);
  auto after = vector<int32_t>(ids.size());
  const int64_t* from = ids.data();
  int32_t* to = after.mutable_data();
  const int64_t n = ids.size();
  const py::gil_scoped_release nogil;
  for (int64_t i = 0; i < n; ++i) to[i] = dfa.step(state, from[i]);
  return after;
}

py::array_t<int32_t> byte_dfa_mask(const py::array& next, const py::array& accepting,
                                   const py::array& offsets, const py::array& bytes,
                                   const py::array& eos_ids,
                                   const py::array_t<int32_t, py::array::c_style>& states) {
  const ByteDfa dfa = automaton("bitmask", next, accepting, offsets, bytes, eos_ids);
  const int64_t rows = states.size();
  py::array_t<int32_t> mask({rows, (dfa.vocabulary + 31) / 32});
  const int32_t* from = states.data();
  int32_t* to = mask.mutable_data();
  const py::gil_scoped_release nogil;
  byte_dfa_bitmask(dfa, from, rows, to, pool);
  return mask;
}

py::tuple awrs_sample_dfa(const py::array& logits_, const py::array& next,
                          const py::array& accepting, const py::array& tok_offsets,
                          const py::array& tok_bytes, const py::array& eos_ids,
                          const py::array& state_, const OptionalArray& inv_temperature_,
                          const py::array& seeds_, const py::array& offsets_,
                          const std::string& estimator, int64_t extra, int64_t budget,
                          int64_t fallback_token) {
  const py::array logits = dense(logits_), state = dense(state_), seeds = dense(seeds_),
                  offsets = dense(offsets_);
  const OptionalArray inv_temperature = dense(inv_temperature_);
  const auto op = check_awrs_sample_dfa({.batch = {.op = "awrs_sample_dfa",
                                                   .logits = view(logits),
                                                   .bitmask = {},
                                                   .mask_rows = {},
                                                   .inv_temperature = view(inv_temperature)},
                                         .dfa = {.next = view(next),
                                                 .accepting = view(accepting),
                                                 .offsets = view(tok_offsets),
                                                 .bytes = view(tok_bytes),
                                                 .eos_ids = view(eos_ids)},
                                         .state = view(state),
                                         .seeds = view(seeds),
                                         .offsets = view(offsets),
                                         .estimator = estimator,
                                         .extra = extra,
                                         .budget = budget,
                                         .fallback_token = fallback_token});
  const int64_t rows = op.batch.rows;
  auto token = vector<int64_t>(rows);
  auto logw = vector<float>(rows);
  auto new_state = vector<int32_t>(rows), n_checked = vector<int32_t>(rows),
       status = vector<int32_t>(rows);
  const AwrsSampleDfaOut out{token.mutable_data(), logw.mutable_data(), new_state.mutable_data(),
                             n_checked.mutable_data(), status.mutable_data()};
  {
    const py::gil_scoped_release nogil;
    sampling::awrs_sample_dfa(op, out, pool);
  }
  return py::make_tuple(token, logw, new_state, n_checked, status);
}

// `check(row, ids)` is called with the GIL held; what it throws goes through. `bfloat16`: logits
// are the bits of bfloat16 numbers as int16.
py::tuple awrs_sample(const py::array& logits_, bool bfloat16, const py::function& check,
                      const std::string& estimator, int64_t extra, int64_t budget,
                      int64_t lookahead, const OptionalArray& inv_temperature_,
                      const py::array& seeds_, const py::array& offsets_, int64_t fallback_token,
                      int threads) {
  const std::string op = "awrs_sample";
  const py::array logits = dense(logits_), seeds = dense(seeds_), offsets = dense(offsets_);
  const OptionalArray inv_temperature = dense(inv_temperature_);
  const AwrsRule rule = check_awrs_rule(op.c_str(), estimator, extra, budget);
  THRIFTY_CHECK(lookahead > 0, op, ": lookahead: expected a positive number, got ", lookahead);
  Array numbers = view(logits);
  if (bfloat16) numbers.dtype = Dtype::kBFloat16;
  const Batch batch = check_batch({.op = op,
                                   .logits = numbers,
                                   .bitmask = {},
                                   .mask_rows = {},
                                   .inv_temperature = view(inv_temperature)});
  check_finite_temperature(op, batch, false);
  const int64_t* seed = check_seeds(op, "seeds", view(seeds), batch.rows);
  const int64_t* offset = check_seeds(op, "offsets", view(offsets), batch.rows);
  auto token = vector<int64_t>(batch.rows);
  auto logw = vector<float>(batch.rows);
  auto n_checked = vector<int32_t>(batch.rows), status = vector<int32_t>(batch.rows);
  RowMass mass;
  for (int64_t b = 0; b < batch.rows; ++b) {
    {
      const py::gil_scoped_release nogil;
      mass.measure(batch.row(b), threads > 1 ? pool : serial);
    }
    const auto ask = [&](const std::vector<int64_t>& ids) {
      const py::object answer = check(b, ids);
      const size_t n = py::len(answer);
      THRIFTY_CHECK(n == ids.size(), op, ": constraint: expected ", ids.size(),
                    " verdicts from check(", b, ", ids), got ", n);
      std::vector<uint8_t> verdicts;
      for (const py::handle verdict : answer) verdicts.push_back(verdict.cast<bool>());
      return verdicts;
    };
    const AwrsSampled found = awrs_sample_row(mass, rule, {seed[b], offset[b]}, lookahead, ask);
    token.mutable_at(b) = found.token >= 0 ? found.token : fallback_token;
    logw.mutable_at(b) = float(found.logw);
    n_checked.mutable_at(b) = int32_t(found.checked);
    status.mutable_at(b) = found.status;
  }
  return py::make_tuple(token, logw, n_checked, status);
}

}  // namespace

void bind_awrs(py::module_& m) {
  m.def("sample_candidates", &sample_candidates);
  m.def("awrs_sample", &awrs_sample);
  m.def("awrs_sample_dfa", &awrs_sample_dfa);
  m.def("awrs_weights", &awrs_weights);
  m.def("smc_resample", &smc_resample);
  m.def("byte_dfa", &byte_dfa);
  m.def("byte_dfa_step", &byte_dfa_step);
  m.def("byte_dfa_bitmask", &byte_dfa_mask);
}

}  // namespace thrifty::python
