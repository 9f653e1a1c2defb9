// Philox4x32-10 and the dropout mask made of it: published answers, where each column finds its
// word, the vector code against the scalar definition, and statistics.
//
// The statistics use fixed seeds, so they cannot fail by chance later; alpha = 1e-6 bounds the
// chance that a correct generator would have failed them when they were written.
#include <array>
#include <set>

#include "check.h"
#include "core/philox.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

void expect_words(uint64_t key, Philox4 counter, std::array<uint32_t, 4> want) {
  const Philox4 got = philox(key, counter);
  for (int i = 0; i < 4; ++i) {
    EXPECT(got.word[i] == want[size_t(i)], "word ", i, std::hex, ": got ", got.word[i], ", want ",
           want[size_t(i)]);
  }
}

// Random123's kat_vectors.
void known_answers() {
  expect_words(0, {{0, 0, 0, 0}}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  expect_words(~uint64_t(0), {{~0u, ~0u, ~0u, ~0u}},
               {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  expect_words(0x299f31d0a4093822, {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}},
               {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

void every_word_is_used_once() {
  std::set<std::pair<uint32_t, int>> seen;
  for (int64_t column = 0; column < 64 * 5; ++column) {
    const DropoutPlace place = dropout_place(column);
    EXPECT(place.word >= 0 && place.word < 4, "column ", column);
    EXPECT(place.counter / 16 == column / 64, "column ", column);
    seen.insert({place.counter, place.word});
  }
  EXPECT(seen.size() == 64 * 5);
  const uint64_t seed = 0x0123456789abcdef, offset = 0xfedcba9876543210;
  const Philox4 words = philox(seed, {{16 + 5, 7, 0x76543210, 0xfedcba98}});
  EXPECT(dropout_word(seed, offset, 7, 64 + 2 * 16 + 5) == words.word[2]);
}

void threshold_and_scale() {
  EXPECT(!Dropout(0, 1, 2).enabled());
  EXPECT(Dropout(0.5, 1, 2).threshold == 0x80000000u && Dropout(0.5, 1, 2).scale == 2);
  EXPECT(Dropout(0.1, 1, 2).threshold == 429496729u);
  EXPECT(Dropout(1 - 0x1p-53, 1, 2).threshold == ~0u);
}

void expect_mask(const char* isa, const ensemble::RowKernels& kernels, Dtype accumulator,
                 const Dropout& dropout, uint32_t row, int64_t column, int64_t n) {
  Guarded mask(accumulator, n);
  kernels.dropout_mask(n, dropout, row, column, mask.data());
  for (int64_t i = 0; i < n; ++i) {
    const bool kept =
        dropout_word(dropout.seed, dropout.offset, row, column + i) >= dropout.threshold;
    const double want = kept ? rounded(accumulator, dropout.scale) : 0;
    EXPECT(mask[i] == want && !std::signbit(mask[i]), isa, " ", dtype_name(accumulator), " row ",
           row, " column ", column, " + ", i, " of ", n, ": got ", mask[i], ", want ", want);
  }
  EXPECT(mask.intact(), isa, " n = ", n);
}

void masks_are_the_scalar_definition() {
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : kStorageDtypes) {
      const auto& kernels = tables.rows.storage[int(dtype)];
      const Dtype accumulator = accumulator_dtype(tables.gemm.storage[int(dtype)]);
      for (const double p : {0.1, 0.3, 0.9375, 1 - 0x1p-40}) {
        const Dropout dropout(p, 0x9d3fcafe00000001, 0x8000000100000002);
        for (int64_t n = 0; n <= 200; n += n < 70 ? 1 : 13) {
          expect_mask(tables.isa, kernels, accumulator, dropout, 3, 0, n);
        }
        for (const int64_t column : {int64_t(64), int64_t(6400), int64_t(1) << 33}) {
          for (const uint32_t row : {0u, 0x80000000u, ~0u}) {
            expect_mask(tables.isa, kernels, accumulator, dropout, row, column, 131);
          }
        }
      }
    }
  }
}

// Upper 1e-6 quantile of chi-square (Wilson and Hilferty 1931, within 1%).
double chi_square_limit(double freedom) {
  const double c = 2 / (9 * freedom);
  return freedom * std::pow(1 - c + 4.7534 * std::sqrt(c), 3);
}

constexpr int kRows = 512, kColumns = 512;

void words_are_uniform() {
  std::array<double, 256> top{}, low{};
  for (uint32_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kColumns; ++column) {
      const uint32_t word = dropout_word(42, 0, row, column);
      ++top[word >> 24], ++low[word & 255];
    }
  }
  for (const auto& histogram : {top, low}) {
    const double expected = kRows * kColumns / 256.0;
    double statistic = 0;
    for (const double n : histogram) statistic += (n - expected) * (n - expected) / expected;
    EXPECT(statistic < chi_square_limit(255), "got ", statistic);
  }
}

// Kept fraction, and the 2 x 2 table of each element and a neighbour: other row, other column,
// other word of the same counter, other counter group, other seed, other offset.
void masks_are_independent() {
  const double p = 0.1, kept_share = 1 - p;
  const Dropout dropout(p, 42, 7);
  const auto kept = [&](int64_t row, int64_t column, uint64_t seed = 42, uint64_t offset = 7) {
    return dropout_word(seed, offset, uint32_t(row), column) >= dropout.threshold;
  };
  constexpr int kNeighbours = 6;
  double total = 0, both[kNeighbours][2][2] = {};
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t column = 0; column < kColumns; ++column) {
      const bool here = kept(row, column);
      total += here;
      const bool there[kNeighbours] = {kept(row + 1, column),  kept(row, column + 1),
                                       kept(row, column + 16), kept(row, column + 64),
                                       kept(row, column, 43),  kept(row, column, 42, 8)};
      for (int i = 0; i < kNeighbours; ++i) ++both[i][here][there[i]];
    }
  }
  const double n = kRows * kColumns;
  const double z = (total - n * kept_share) / std::sqrt(n * p * kept_share);
  EXPECT(std::fabs(z) < 4.8917, "mean: ", z, " standard deviations");
  for (int i = 0; i < kNeighbours; ++i) {
    double statistic = 0;
    for (const int a : {0, 1}) {
      for (const int b : {0, 1}) {
        const double want = n * (a ? kept_share : p) * (b ? kept_share : p);
        statistic += (both[i][a][b] - want) * (both[i][a][b] - want) / want;
      }
    }
    EXPECT(statistic < chi_square_limit(3), "neighbour ", i, ": ", statistic);
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"known answers", known_answers},
                    {"every word is used once", every_word_is_used_once},
                    {"threshold and scale", threshold_and_scale},
                    {"masks are the scalar definition", masks_are_the_scalar_definition},
                    {"words are uniform", words_are_uniform},
                    {"masks are independent", masks_are_independent}});
}
