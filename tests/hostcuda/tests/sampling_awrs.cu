// sample_candidates, awrs_sample_dfa, awrs_weights and smc_resample against the CPU's: the same
// tokens, ancestors and weights for the same seeds.
#include <cmath>
#include <memory>
#include <random>

#include "hostcuda/harness.h"
#include "sampling/awrs_cuda.h"

namespace thrifty::sampling::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

template <class T>
void expect_near(const std::vector<T>& actual, const std::vector<T>& expected, double tolerance,
                 const std::string& what) {
  for (size_t i = 0; i < actual.size(); ++i) {
    const bool same = actual[i] == expected[i] ||
                      (actual[i] != actual[i] && expected[i] != expected[i]) ||
                      std::abs(double(actual[i]) - double(expected[i])) <=
                          tolerance * (1 + std::abs(double(expected[i])));
    expect(same, what + "[" + std::to_string(i) + "] = " + std::to_string(actual[i]) +
                     ", expected " + std::to_string(expected[i]));
  }
}

std::vector<int64_t> counting(int64_t n, int64_t first) {
  std::vector<int64_t> all;
  for (int64_t i = 0; i < n; ++i) all.push_back(first + 3 * i);
  return all;
}

struct Rows {
  Rows(int64_t rows, int64_t vocab, float spread, unsigned seed)
      : values(normal_values<float>(size_t(rows * vocab), seed)), rows(rows), vocab(vocab) {
    for (float& value : values) value *= spread;
    logits = std::make_unique<Buffer<float>>(values);
    seeds = std::make_unique<Buffer<int64_t>>(counting(rows, 11));
    offsets = std::make_unique<Buffer<int64_t>>(counting(rows, 500));
  }
  Batch batch() {
    Batch b;
    b.logits = logits->data(), b.rows = rows, b.vocab = b.stride = vocab;
    return b;
  }
  std::vector<float> values;
  int64_t rows, vocab;
  std::unique_ptr<Buffer<float>> logits;
  std::unique_ptr<Buffer<int64_t>> seeds, offsets;
};

struct Candidates {
  Candidates(int64_t rows, int64_t k)
      : ids(size_t(rows * k)),
        logp(size_t(rows * k)),
        log_rest(size_t(rows * k)),
        log_tail(size_t(rows)),
        lse(size_t(rows)),
        status(size_t(rows)) {}
  SampleCandidatesOut out() {
    return {ids.data(), logp.data(), log_rest.data(), log_tail.data(), lse.data(), status.data()};
  }
  Buffer<int32_t> ids;
  Buffer<float> logp, log_rest, log_tail, lse;
  Buffer<int32_t> status;
};

Bytes check_candidates(Rows& rows, int64_t k, Buffer<int32_t>* drawn = nullptr) {
  SampleCandidates op;
  op.batch = rows.batch();
  op.k = k, op.seeds = rows.seeds->data(), op.offsets = rows.offsets->data();
  if (drawn) op.drawn = drawn->data(), op.drawn_count = int64_t(drawn->size()) / rows.rows;
  Candidates got(rows.rows, k), want(rows.rows, k);
  Buffer<unsigned char> scratch(size_t(sample_candidates_scratch(op)));
  expect_ok(cuda::sample_candidates(op, got.out(), scratch.data(), nullptr).error);
  sampling::sample_candidates(op, want.out(), serial);
  expect(got.status.values() == want.status.values(), "status");
  expect(got.ids.values() == want.ids.values(), "ids");
  expect_near(got.logp.values(), want.logp.values(), 3e-6, "logp");
  expect_near(got.log_rest.values(), want.log_rest.values(), 3e-6, "log_rest");
  expect_near(got.log_tail.values(), want.log_tail.values(), 3e-6, "log_tail");
  expect_near(got.lse.values(), want.lse.values(), 3e-6, "lse");
  Bytes all = got.ids.bytes();
  const Bytes more = got.logp.bytes();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

TEST(candidates_sizes) {
  for (const int64_t vocab : {1, 6, 1030, 2100}) {
    Rows rows(2, vocab, 2, unsigned(vocab));
    check_candidates(rows, std::min<int64_t>(vocab, 12));
  }
}

TEST(candidates_schedules) {
  Rows rows(5, 1100, 1, 3);
  for_few_schedules([&] { return check_candidates(rows, 4); });
}

// What is left is e^-40 and less of the row, and the list ends with the tokens that have mass.
TEST(candidates_of_little_mass) {
  Rows rows(2, 9, 1, 5);
  for (size_t i = 0; i < rows.values.size(); ++i) rows.values[i] = -20.0f * float(i % 9);
  rows.values[4] = -INFINITY;
  copy_to_global(rows.logits->data(), rows.values.data(), rows.values.size() * 4);
  check_candidates(rows, 9);
}

TEST(candidates_continue) {
  Rows rows(2, 1500, 1, 7);
  SampleCandidates op;
  op.batch = rows.batch();
  op.k = 12, op.seeds = rows.seeds->data(), op.offsets = rows.offsets->data();
  Candidates all(2, 12);
  sampling::sample_candidates(op, all.out(), serial);
  std::vector<int32_t> first;
  for (const int64_t row : {0, 1}) {
    for (int64_t j = 0; j < 5; ++j) first.push_back(all.ids.values()[size_t(row * 12 + j)]);
  }
  Buffer<int32_t> drawn(first);
  check_candidates(rows, 7, &drawn);
  Buffer<int32_t> wrong(std::vector<int32_t>{-1, 5000, 3, 3, -7, 2, INT32_MAX, 1400, 0, INT32_MIN});
  check_candidates(rows, 4, &wrong);
}

TEST(candidates_without_law) {
  Rows rows(3, 1100, 1, 9);
  rows.values[7] = NAN, rows.values[1100 + 1050] = INFINITY;
  for (int64_t i = 2200; i < 3300; ++i) rows.values[size_t(i)] = -INFINITY;
  copy_to_global(rows.logits->data(), rows.values.data(), rows.values.size() * 4);
  check_candidates(rows, 3);
}

namespace {

// Tokens are random strings over "ab"; the automaton takes (ab)*, or nothing but "b".
struct Automaton {
  explicit Automaton(int64_t vocab, int bytes_each)
      : next(std::vector<int32_t>(3 * 256, -1)),
        accepting(std::vector<uint8_t>{1, 0, 1}),
        eos(std::vector<int32_t>{3}),
        vocab(vocab) {
    std::mt19937 random(1);
    std::vector<int32_t> at = {0};
    std::vector<uint8_t> text;
    for (int64_t t = 0; t < vocab; ++t) {
      const int length = int(random() % unsigned(bytes_each + 1));
      for (int i = 0; i < length; ++i) text.push_back(random() % 2 ? 'a' : 'b');
      at.push_back(int32_t(text.size()));
    }
    offsets = std::make_unique<Buffer<int32_t>>(at);
    bytes = std::make_unique<Buffer<uint8_t>>(text);
    std::vector<int32_t> table(3 * 256, -1);
    table['a'] = 1, table[256 + 'b'] = 0, table[512 + 'b'] = 2;
    copy_to_global(next.data(), table.data(), table.size() * 4);
  }
  ByteDfa dfa() {
    ByteDfa d;
    d.next = next.data(), d.accepting = accepting.data(), d.offsets = offsets->data();
    d.bytes = bytes->data(), d.eos_ids = eos.data();
    d.states = 3, d.vocabulary = vocab, d.total_bytes = int64_t(bytes->size()), d.eos_count = 1;
    return d;
  }
  Buffer<int32_t> next;
  Buffer<uint8_t> accepting;
  Buffer<int32_t> eos;
  int64_t vocab;
  std::unique_ptr<Buffer<int32_t>> offsets;
  std::unique_ptr<Buffer<uint8_t>> bytes;
};

Bytes check_dfa(Rows& rows, Automaton& automaton, const std::vector<int32_t>& states,
                const AwrsRule& rule) {
  Buffer<int32_t> state(states);
  AwrsSampleDfa op;
  op.batch = rows.batch(), op.dfa = automaton.dfa(), op.rule = rule, op.state = state.data();
  op.seeds = rows.seeds->data(), op.offsets = rows.offsets->data(), op.fallback_token = -5;
  const auto n = size_t(rows.rows);
  Buffer<int64_t> token(n), want_token(n);
  Buffer<float> logw(n), want_logw(n);
  Buffer<int32_t> next(n), want_next(n), checked(n), want_checked(n), status(n), want_status(n);
  Buffer<unsigned char> scratch(size_t(awrs_sample_dfa_scratch(op)));
  expect_ok(cuda::awrs_sample_dfa(
                op, {token.data(), logw.data(), next.data(), checked.data(), status.data()},
                scratch.data(), nullptr)
                .error);
  sampling::awrs_sample_dfa(op,
                            {want_token.data(), want_logw.data(), want_next.data(),
                             want_checked.data(), want_status.data()},
                            serial);
  expect(status.values() == want_status.values(), "status");
  expect(token.values() == want_token.values(), "token");
  expect(next.values() == want_next.values(), "new state");
  for (size_t i = 0; i < n; ++i) {
    expect(checked.values()[i] == want_checked.values()[i],
           "row " + std::to_string(i) + ", estimator " + std::to_string(int(rule.estimator)) +
               ": checks " + std::to_string(checked.values()[i]) + ", expected " +
               std::to_string(want_checked.values()[i]));
  }
  expect_near(logw.values(), want_logw.values(), 3e-6, "logw");
  Bytes all = token.bytes();
  const Bytes more = logw.bytes();
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

}  // namespace

TEST(dfa_estimators) {
  Rows rows(4, 1300, 2, 1);
  Automaton automaton(1300, 3);
  for (const AwrsEstimator estimator :
       {AwrsEstimator::kDesRaj, AwrsEstimator::kPaper, AwrsEstimator::kNone}) {
    check_dfa(rows, automaton, {0, 1, 2, 9}, {estimator, 4, kNoBudget});
    check_dfa(rows, automaton, {0, 1, 2, -1}, {estimator, 2, 3});
  }
}

TEST(dfa_schedules) {
  Rows rows(3, 1100, 1, 2);
  Automaton automaton(1100, 2);
  for_few_schedules([&] { return check_dfa(rows, automaton, {0, 1, 2}, {}); });
}

// The automaton refuses nearly all, so rows give up and are settled exactly; a vocabulary that is
// shorter than the row, and one without any allowed token.
TEST(dfa_gives_up) {
  Rows rows(3, 1500, 0.1f, 3);
  Automaton automaton(1400, 12);
  check_dfa(rows, automaton, {2, 0, 1}, {});
  Rows few(1, 300, 0.1f, 4);
  Automaton none(2, 12);
  check_dfa(few, none, {1}, {});
}

TEST(weights_are_the_cpus) {
  const int64_t rows = 200, k = 6;
  std::mt19937 random(4);
  std::vector<uint8_t> allowed;
  std::vector<float> logp, log_rest, log_tail;
  std::vector<double> coins;
  for (int64_t row = 0; row < rows; ++row) {
    double rest = 1;
    for (int64_t j = 0; j < k; ++j) {
      const double p = rest * (0.1 + 0.5 * double(random() % 1000) / 1000);
      const bool padding = row % 7 == 0 && j > 3;
      logp.push_back(padding ? -INFINITY : float(std::log(p)));
      log_rest.push_back(padding ? -INFINITY : float(std::log(rest)));
      allowed.push_back(uint8_t(random() % 5 == 0 ? 2 : random() % 2));
      coins.push_back(double(random() % 4096) / 4096);
      rest -= p;
    }
    log_tail.push_back(row % 7 == 0 ? -INFINITY : float(std::log(rest)));
  }
  Buffer<uint8_t> a(allowed), more(rows), want_more(rows);
  Buffer<float> p(logp), r(log_rest), t(log_tail), logw(rows), want_logw(rows);
  Buffer<double> c(coins);
  Buffer<int32_t> pos(rows), want_pos(rows), checked(rows), want_checked(rows);
  for (const AwrsRule& rule :
       {AwrsRule{AwrsEstimator::kDesRaj, 2, kNoBudget},
        AwrsRule{AwrsEstimator::kPaper, 1, kNoBudget}, AwrsRule{AwrsEstimator::kNone, 1, 3}}) {
    AwrsWeights problem;
    problem.rows = rows, problem.k = k, problem.allowed = a.data(), problem.logp = p.data();
    problem.log_rest = r.data(), problem.log_tail = t.data(), problem.rule = rule;
    if (rule.estimator == AwrsEstimator::kPaper) problem.coins = c.data();
    expect_ok(
        cuda::awrs_weights(problem, {pos.data(), logw.data(), more.data(), checked.data()}, nullptr)
            .error);
    sampling::awrs_weights(
        problem, {want_pos.data(), want_logw.data(), want_more.data(), want_checked.data()},
        serial);
    expect(pos.values() == want_pos.values() && more.values() == want_more.values(), "walks");
    expect(checked.values() == want_checked.values(), "checks");
    expect_near(logw.values(), want_logw.values(), 1e-6, "logw");
  }
}

TEST(coins_are_the_cpus) {
  Buffer<int64_t> seeds(counting(5, 1)), offsets(counting(5, 9));
  Buffer<double> coins(35), want(35);
  expect_ok(cuda::awrs_coins(seeds.data(), offsets.data(), 5, 7, coins.data(), nullptr).error);
  sampling::awrs_coins(seeds.data(), offsets.data(), 5, 7, want.data());
  expect(coins.values() == want.values(), "coins");
}

namespace {

template <class T>
Bytes check_smc(int64_t populations, int64_t n, Resampling method, double threshold, T gap = 0) {
  std::vector<T> logw = normal_values<T>(size_t(populations * n), unsigned(n));
  for (size_t i = 0; i < logw.size(); ++i) {
    logw[i] *= 2;
    if (i % 5 == 2) logw[i] = T(-INFINITY);
    if (gap != 0 && int64_t(i) < n) logw[i] = gap;
  }
  Buffer<T> w(logw);
  Buffer<int64_t> seeds(counting(populations, 1)), offsets(counting(populations, 77));
  SmcResample problem;
  problem.populations = populations, problem.particles = n, problem.logw = w.data();
  problem.dtype = sizeof(T) == 4 ? Dtype::kFloat32 : Dtype::kFloat64;
  problem.seeds = seeds.data(), problem.offsets = offsets.data();
  problem.method = method, problem.ess_threshold = threshold;
  const auto all = size_t(populations * n), few = size_t(populations);
  Buffer<int64_t> ancestors(all), want_ancestors(all);
  Buffer<T> fresh(all), want_fresh(all), ess(few), want_ess(few), more(few), want_more(few);
  Buffer<unsigned char> scratch(size_t(smc_resample_scratch(problem)));
  expect_ok(cuda::smc_resample(problem, {ancestors.data(), fresh.data(), ess.data(), more.data()},
                               scratch.data(), nullptr)
                .error);
  sampling::smc_resample(
      problem, {want_ancestors.data(), want_fresh.data(), want_ess.data(), want_more.data()},
      serial);
  expect(ancestors.values() == want_ancestors.values(), "ancestors");
  expect_near(fresh.values(), want_fresh.values(), 0, "logw");
  expect_near(ess.values(), want_ess.values(), 1e-6, "ess");
  expect_near(more.values(), want_more.values(), 1e-6, "increment");
  return ancestors.bytes();
}

}  // namespace

TEST(smc_methods) {
  for (const Resampling method : {Resampling::kStratified, Resampling::kSystematic,
                                  Resampling::kMultinomial, Resampling::kResidual}) {
    for (const int64_t n : {1, 5, 32, 70}) {
      check_smc<float>(3, n, method, 0.9);
      check_smc<double>(2, n, method, 2.0);
    }
    check_smc<float>(2, 40, method, 0);
    check_smc<float>(2, 9, method, 0.5, NAN);
    check_smc<float>(2, 9, method, 0.5, -INFINITY);
    check_smc<float>(2, 9, method, 0.5, INFINITY);
  }
  check_smc<float>(0, 4, Resampling::kStratified, 0.5);
}

TEST(smc_schedules) {
  for_few_schedules([&] { return check_smc<float>(5, 45, Resampling::kResidual, 0.9); });
}

}  // namespace thrifty::sampling::cuda::testing
