// masked_sample, filter_threshold and apply_token_bitmask_ against the CPU's: the same tokens for
// the same seeds, over dtypes, sizes around a block of 1024, alignments, masks, filters and rows
// that have no law.
#include <cmath>
#include <cstring>
#include <random>

#include "hostcuda/harness.h"
#include "sampling/sampling_cuda.h"

namespace thrifty::sampling::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

constexpr Dtype kDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16};

struct Case {
  Dtype dtype = Dtype::kFloat32;
  int64_t rows = 3, vocab = 2500;
  int64_t pad = 0;     // between rows, in elements: odd ones end the alignment
  double spread = 3;   // standard deviation of the logits
  double allowed = 1;  // share of the mask's bits; 1: no mask
  int64_t words = -1;  // of the mask; -1: enough
  float inv_temperature = 1;
  int64_t top_k = 0;
  float top_p = 0, min_p = 0, top_n_sigma = 0, top_h = 0;
  bool renormalised = false;
  unsigned seed = 1;
  // Overwrites values of the (rows, stride) matrix.
  std::function<void(std::vector<float>&, int64_t stride)> edit = nullptr;
};

std::vector<unsigned char> stored(Dtype dtype, const std::vector<float>& values) {
  std::vector<unsigned char> bytes(values.size() * size_t(dtype_size(dtype)));
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == Dtype::kFloat32) {
      std::memcpy(&bytes[i * 4], &values[i], 4);
    } else if (dtype == Dtype::kBFloat16) {
      const bf16 value = __float2bfloat16(values[i]);
      std::memcpy(&bytes[i * 2], &value, 2);
    } else {
      const fp16 value = __float2half(values[i]);
      std::memcpy(&bytes[i * 2], &value, 2);
    }
  }
  return bytes;
}

// A batch in the kernels' memory. Its host is the machine that runs them, so the CPU's functions
// take the same pointers.
struct Problem {
  explicit Problem(const Case& c)
      : test(c),
        stride(c.vocab + c.pad),
        logits(stored(c.dtype, values(c))),
        mask(mask_bits(c)),
        seeds(numbers(c.rows, 1000)),
        offsets(numbers(c.rows, int64_t(1) << 33)),
        top_k(std::vector<int64_t>(1, c.top_k)),
        top_p(one(c.top_p)),
        min_p(one(c.min_p)),
        top_n_sigma(one(c.top_n_sigma)),
        top_h(one(c.top_h)),
        inv_temperature(one(c.inv_temperature)) {}

  static std::vector<float> one(float value) { return {value}; }
  static std::vector<int64_t> numbers(int64_t count, int64_t first) {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < count; ++i) all.push_back(first + i * 7);
    return all;
  }
  static std::vector<float> values(const Case& c) {
    std::vector<float> all = normal_values<float>(size_t(c.rows * (c.vocab + c.pad)), c.seed);
    for (float& value : all) value *= float(c.spread);
    if (c.edit) c.edit(all, c.vocab + c.pad);
    return all;
  }
  static std::vector<uint32_t> mask_bits(const Case& c) {
    const int64_t words = c.words >= 0 ? c.words : (c.vocab + 31) / 32;
    std::vector<uint32_t> all(size_t(c.rows * words));
    std::mt19937 random(c.seed);
    for (uint32_t& word : all) {
      for (int bit = 0; bit < 32; ++bit) {
        word |= uint32_t(random() < c.allowed * 4294967296.0) << bit;
      }
    }
    return all;
  }

  Batch batch() {
    Batch b;
    b.dtype = test.dtype;
    b.logits = logits.data();
    b.rows = test.rows, b.vocab = test.vocab, b.stride = stride;
    if (test.allowed < 1) {
      b.mask = mask.data(), b.masks = test.rows;
      b.mask_words = test.words >= 0 ? test.words : (test.vocab + 31) / 32;
    }
    b.inv_temperature = {inv_temperature.data(), 0, 1};
    return b;
  }
  FilterBatch filters() {
    FilterBatch f;
    f.top_p.fallback = 1;
    if (test.top_k > 0) f.top_k = {top_k.data(), 0, 0};
    if (test.top_p > 0) f.top_p = {top_p.data(), 0, 0};
    if (test.min_p > 0) f.min_p = {min_p.data(), 0, 0};
    if (test.top_n_sigma > 0) f.top_n_sigma = {top_n_sigma.data(), 0, 0};
    if (test.top_h > 0) f.top_h = {top_h.data(), 0, 0};
    f.renormalised = test.renormalised;
    return f;
  }
  MaskedSample op() {
    MaskedSample op;
    op.batch = batch(), op.filters = filters();
    op.seeds = seeds.data(), op.offsets = offsets.data();
    op.fallback_token = -7;
    return op;
  }

  Case test;
  int64_t stride;
  Buffer<unsigned char> logits;
  Buffer<uint32_t> mask;
  Buffer<int64_t> seeds, offsets, top_k;
  Buffer<float> top_p, min_p, top_n_sigma, top_h, inv_temperature;
};

struct Result {
  explicit Result(int64_t rows)
      : token(size_t(rows)), logp(size_t(rows)), log_z(size_t(rows)), status(size_t(rows)) {}
  MaskedSampleOut out() { return {token.data(), logp.data(), log_z.data(), status.data()}; }
  Bytes bytes() const {
    Bytes all = token.bytes();
    for (const Bytes& more : {logp.bytes(), log_z.bytes(), status.bytes()}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
  Buffer<int64_t> token;
  Buffer<float> logp, log_z;
  Buffer<int32_t> status;
};

void expect_close_or_equal(const Buffer<float>& actual, const Buffer<float>& expected,
                           const std::string& what) {
  const auto a = actual.values(), e = expected.values();
  for (size_t i = 0; i < a.size(); ++i) {
    const bool same = a[i] == e[i] || (std::isnan(a[i]) && std::isnan(e[i])) ||
                      std::abs(a[i] - e[i]) <= 2e-5 * (1 + std::abs(e[i]));
    expect(same, what + " of row " + std::to_string(i) + ": " + std::to_string(a[i]) +
                     ", expected " + std::to_string(e[i]));
  }
}

void run(Problem& problem, Result& result) {
  const MaskedSample op = problem.op();
  Buffer<unsigned char> scratch(size_t(masked_sample_scratch(op)));
  expect_ok(cuda::masked_sample(op, result.out(), scratch.data(), nullptr).error);
}

Bytes check(const Case& c, const std::string& name = "") {
  Problem problem(c);
  Result got(c.rows), want(c.rows);
  run(problem, got);
  sampling::masked_sample(problem.op(), want.out(), serial);
  const std::string what = name + " V = " + std::to_string(c.vocab) + ", dtype " +
                           dtype_name(c.dtype) + ", seed " + std::to_string(c.seed) + ": ";
  for (size_t row = 0; row < size_t(c.rows); ++row) {
    expect(got.status.values()[row] == want.status.values()[row],
           what + "status " + std::to_string(got.status.values()[row]) + ", expected " +
               std::to_string(want.status.values()[row]));
    expect(got.token.values()[row] == want.token.values()[row],
           what + "token " + std::to_string(got.token.values()[row]) + ", expected " +
               std::to_string(want.token.values()[row]));
  }
  expect_close_or_equal(got.logp, want.logp, what + "logp");
  expect_close_or_equal(got.log_z, want.log_z, what + "log_z");
  return got.bytes();
}

void check_threshold(const Case& c) {
  Problem problem(c);
  FilterThreshold op{problem.batch(), problem.filters()};
  Buffer<float> theta(size_t(c.rows)), mass(size_t(c.rows)), want_theta(size_t(c.rows)),
      want_mass(size_t(c.rows));
  Buffer<unsigned char> scratch(size_t(filter_threshold_scratch(op)));
  expect_ok(cuda::filter_threshold(op, {theta.data(), mass.data()}, scratch.data(), nullptr).error);
  sampling::filter_threshold(op, {want_theta.data(), want_mass.data()}, serial);
  const std::string what = "filters, seed " + std::to_string(c.seed) + ", ";
  expect_close_or_equal(mass, want_mass, what + "log_mass");
  // The paper's top_h bounds by "above the first that is left out".
  if (!c.renormalised) expect_close_or_equal(theta, want_theta, what + "theta");
}

}  // namespace

TEST(masked_sizes) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t vocab : {1, 7, 1000, 1024, 1025, 2083}) {
      check({.dtype = dtype, .rows = 2, .vocab = vocab, .seed = unsigned(vocab)});
      check({.dtype = dtype, .rows = 2, .vocab = vocab, .pad = 3, .allowed = 0.5});
    }
  }
}

TEST(masked_schedules) {
  for_each_schedule([&] { return check({.rows = 5, .vocab = 1100, .allowed = 0.3}); });
}

TEST(masked_temperatures) {
  for (const float it : {0.0f, 1e-3f, 0.5f, 3.0f, 30.0f, INFINITY}) {
    check({.inv_temperature = it}, "temperature");
    check({.allowed = 0.01, .inv_temperature = it}, "temperature");
  }
}

TEST(masked_short_masks) {
  check({.vocab = 2083, .allowed = 0.5, .words = 40});
  check({.vocab = 2083, .allowed = 0.5, .words = 0});
}

// What is allowed may be less than float32 can say beside the rest.
TEST(masked_tiny_mass) {
  const auto edit = [](float gap) {
    return [gap](std::vector<float>& values, int64_t) {
      for (float& value : values) value = value > 0 ? 0 : -gap;
    };
  };
  for (const float gap : {27.6f, 69.1f, 300.0f}) {
    Case c{.rows = 2, .vocab = 1500, .allowed = 0.5, .edit = edit(gap)};
    Problem problem(c);
    // The mask allows only small ones.
    std::vector<uint32_t> bits(problem.mask.size());
    const auto values = Problem::values(c);
    for (int64_t row = 0; row < c.rows; ++row) {
      for (int64_t t = 0; t < c.vocab; ++t) {
        if (values[size_t(row * c.vocab + t)] < 0) {
          bits[size_t(row * 47 + t / 32)] |= 1u << (t % 32);
        }
      }
    }
    copy_to_global(problem.mask.data(), bits.data(), bits.size() * 4);
    Result got(c.rows), want(c.rows);
    run(problem, got);
    sampling::masked_sample(problem.op(), want.out(), serial);
    expect(got.token.values() == want.token.values(), "tokens");
    expect_close_or_equal(got.log_z, want.log_z, "log_z");
    expect(got.log_z.values()[0] < -gap + 1, "log_z is that of the gap");
  }
}

TEST(masked_rows_without_law) {
  const float inf = INFINITY;
  check({.allowed = 0}, "nothing allowed");
  for (const double allowed : {1.0, 0.5}) {
    check({.allowed = allowed,
           .edit =
               [&](std::vector<float>& values, int64_t stride) {
                 values[1700] = NAN;                                    // row 0
                 values[size_t(stride) + 3] = inf;                      // row 1
                 std::fill(values.end() - stride, values.end(), -inf);  // row 2
               }},
          "invalid");
  }
  // A law that float32 cannot say as l / T: differences are taken first.
  check({.inv_temperature = 1e20f,
         .edit =
             [](std::vector<float>& values, int64_t) {
               for (float& value : values) value *= 1e25f;
             }},
        "huge");
  check({.rows = 0});
}

// Rows that take part of the same masks, in any order; -1 is none, and a wrong one allows nothing.
TEST(masked_mask_rows) {
  Problem problem({.rows = 4, .vocab = 1100, .allowed = 0.2});
  Buffer<int32_t> rows(std::vector<int32_t>{2, -1, 2, 77});
  MaskedSample op = problem.op();
  op.batch.mask_rows = rows.data();
  Result got(4);
  Buffer<unsigned char> scratch(size_t(masked_sample_scratch(op)));
  expect_ok(cuda::masked_sample(op, got.out(), scratch.data(), nullptr).error);
  const auto status = got.status.values();
  expect(status == std::vector<int32_t>({0, 0, 0, 1}), "status");
  expect(got.log_z.values()[1] == 0 && got.log_z.values()[0] < -0.5, "log_z");
}

// The same logits and seeds give the same bits anywhere in a batch and at any alignment, and wide
// and narrow storage of the same values agree.
TEST(masked_place_in_batch) {
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16}) {
    const auto same = [&](int64_t rows, int64_t pad) {
      Problem problem({.dtype = dtype,
                       .rows = rows,
                       .vocab = 1300,
                       .pad = pad,
                       .allowed = 0.9,
                       .edit = [](std::vector<float>& values, int64_t stride) {
                         for (size_t i = 0; i < values.size(); ++i) {
                           values[i] = float(int64_t(i) % stride * 7919 % 97) / 8;
                         }
                       }});
      std::vector<uint32_t> bits(problem.mask.size(), 0x7fffffffu);
      copy_to_global(problem.mask.data(), bits.data(), bits.size() * 4);
      std::vector<int64_t> seeds(size_t(rows), 5);
      copy_to_global(problem.seeds.data(), seeds.data(), seeds.size() * 8);
      copy_to_global(problem.offsets.data(), seeds.data(), seeds.size() * 8);
      Result got(rows);
      run(problem, got);
      const auto logp = got.logp.values(), log_z = got.log_z.values();
      for (const float value : logp) expect(value == logp[0], "logp differs between rows");
      for (const float value : log_z) expect(value == log_z[0], "log_z differs between rows");
      for (const int64_t t : got.token.values()) expect(t == got.token.values()[0], "token");
      return std::make_pair(got.token.values()[0], std::make_pair(logp[0], log_z[0]));
    };
    static const auto first = same(1, 0);
    expect(same(1, 0) == first && same(5, 0) == first && same(4, 1) == first, "the same bits");
  }
}

// Chi-square of 2,000 draws from 12 tokens, three of which the mask forbids; alpha = 1e-6.
TEST(masked_law) {
  const int64_t rows = 2000, vocab = 12;
  const std::vector<float> logits = {1, 0, -1, 2, 0.5, 0, 1.5, -2, 1, 0.2, 0.1, 2.2};
  Problem problem({.rows = rows,
                   .vocab = vocab,
                   .allowed = 0.5,
                   .edit = [&](std::vector<float>& values, int64_t) {
                     for (size_t i = 0; i < values.size(); ++i) values[i] = logits[i % 12];
                   }});
  const uint32_t mask = 0xfff & ~(1u << 3 | 1u << 5 | 1u << 11);
  std::vector<uint32_t> bits(size_t(rows), mask);
  copy_to_global(problem.mask.data(), bits.data(), bits.size() * 4);
  std::vector<int64_t> seeds(size_t(rows), 42);
  copy_to_global(problem.seeds.data(), seeds.data(), seeds.size() * 8);
  Result got(rows);
  run(problem, got);
  double whole = 0, square = 0;
  for (int t = 0; t < vocab; ++t) whole += mask >> t & 1 ? std::exp(double(logits[size_t(t)])) : 0;
  std::vector<double> counts(size_t(vocab), 0);
  for (const int64_t token : got.token.values()) {
    expect(token >= 0 && token < vocab && (mask >> token & 1), "an allowed token");
    counts[size_t(token)] += 1;
  }
  for (int t = 0; t < vocab; ++t) {
    const double mean = double(rows) * std::exp(double(logits[size_t(t)])) / whole;
    if (mask >> t & 1) square += (counts[size_t(t)] - mean) * (counts[size_t(t)] - mean) / mean;
  }
  expect(square < 42.7, "chi-square with 8 degrees of freedom: " + std::to_string(square));
}

TEST(filters_one_by_one) {
  unsigned seed = 1;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16}) {
    for (const double allowed : {1.0, 0.1}) {
      const Case c{
          .dtype = dtype, .rows = 2, .allowed = allowed, .inv_temperature = 0.8f, .seed = ++seed};
      for (const int64_t k : {1, 3, 50, 200, 1500}) {
        Case one = c;
        one.top_k = k, check_threshold(one);
      }
      for (const float p : {1e-6f, 0.3f, 0.9f, 0.999f}) {
        Case one = c;
        one.top_p = p, check_threshold(one);
      }
      for (const float value : {0.02f, 0.3f, 1.0f}) {
        Case one = c;
        one.min_p = value, check_threshold(one);
        one = c;
        one.top_n_sigma = 3 * value, check_threshold(one);
        one = c;
        one.top_h = value, check_threshold(one);
        one.renormalised = true, check_threshold(one);
      }
    }
  }
}

TEST(filters_together) {
  for (unsigned seed = 1; seed <= 4; ++seed) {
    check_threshold({.top_k = 40, .top_p = 0.8f, .seed = seed});
    check_threshold({.spread = 0.5, .top_k = 900, .top_p = 0.95f, .min_p = 0.1f, .seed = seed});
    check({.allowed = 0.5, .top_k = 30, .top_p = 0.7f, .min_p = 0.01f, .seed = seed});
  }
  for_few_schedules([&] {
    return check(
        {.rows = 2, .vocab = 1100, .allowed = 0.5, .top_k = 30, .top_p = 0.7f, .top_h = 0.4f});
  });
}

// More equal logits than are compared with each other, a logit like that of a masked token far
// below all others, and only a few tokens.
TEST(filters_hard_rows) {
  const auto quantised = [](std::vector<float>& values, int64_t) {
    for (float& value : values) value = std::round(value / 4) * 4;
  };
  const auto outlier = [](std::vector<float>& values, int64_t) { values[5] = -3.4e38f; };
  const auto equal = [](std::vector<float>& values, int64_t) {
    for (float& value : values) value = 2;
  };
  for (const int variant : {0, 1, 2}) {
    Case c{.rows = 1, .vocab = 3000};
    if (variant == 0) c.edit = quantised;
    if (variant == 1) c.edit = outlier;
    if (variant == 2) c.edit = equal;
    Case one = c;
    one.top_k = 1200, check_threshold(one);
    one = c;
    one.top_p = 0.6f, check_threshold(one);
    one = c;
    one.top_h = 0.4f, check_threshold(one);
    one.renormalised = true, check_threshold(one);
  }
  for (const int64_t vocab : {1, 2, 5}) {
    check_threshold({.vocab = vocab, .top_k = 3, .top_p = 0.5f, .top_h = 0.4f});
    check_threshold({.vocab = vocab, .allowed = 0.5, .top_h = 0.9f, .renormalised = true});
    check({.vocab = vocab, .allowed = 0.5, .top_k = 2, .top_p = 0.5f});
  }
  check({.top_p = 0.5f, .edit = [](std::vector<float>& values, int64_t stride) {
           values[7] = NAN;
           values[size_t(stride)] = INFINITY;
         }});
}

namespace {

void check_bitmask(Dtype dtype, int64_t vocab, int64_t covered, bool indexed, int64_t pad) {
  const Case c{.dtype = dtype, .rows = 3, .vocab = vocab, .pad = pad, .allowed = 0.5};
  Problem given(c), expected(c);
  Buffer<int32_t> rows(std::vector<int32_t>{2, 0});
  const auto op_of = [&](Problem& problem) {
    ApplyBitmask op;
    op.dtype = dtype, op.logits = problem.logits.data();
    op.vocab = vocab, op.stride = problem.stride, op.covered = covered;
    op.mask = problem.mask.data(), op.mask_words = (vocab + 31) / 32;
    op.all_rows = op.all_masks = 3;
    op.count = indexed ? 2 : 3;
    op.rows = op.masks = indexed ? rows.data() : nullptr;
    return op;
  };
  expect_ok(cuda::apply_token_bitmask(op_of(given), nullptr).error);
  sampling::apply_token_bitmask(op_of(expected), serial);
  expect(given.logits.bytes() == expected.logits.bytes(), "the CPU's bits");
}

}  // namespace

TEST(bitmask_is_the_cpus) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t vocab : {1, 31, 33, 1024, 2083}) {
      check_bitmask(dtype, vocab, vocab, false, 0);
      check_bitmask(dtype, vocab, vocab * 2 / 3, true, 5);
    }
  }
}

TEST(bitmask_ignores_wrong_rows) {
  Problem problem({.rows = 2, .vocab = 64, .allowed = 0});
  const Bytes before = problem.logits.bytes();
  Buffer<int32_t> rows(std::vector<int32_t>{-1, 9});
  ApplyBitmask op;
  op.logits = problem.logits.data(), op.vocab = op.stride = op.covered = 64;
  op.mask = problem.mask.data(), op.mask_words = 2, op.all_rows = op.all_masks = 2;
  op.count = 2, op.rows = op.masks = rows.data();
  expect_ok(cuda::apply_token_bitmask(op, nullptr).error);
  expect(problem.logits.bytes() == before, "nothing is written");
}

}  // namespace thrifty::sampling::cuda::testing
