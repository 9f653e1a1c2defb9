// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3.3): a counter-based generator, so a draw is a function of (seed, offset, position) and
// of nothing else. One header for CPU and CUDA.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define THRIFTY_ANY_SIDE __host__ __device__
#else
#define THRIFTY_ANY_SIDE
#endif

namespace thrifty {

constexpr uint32_t kPhiloxMul0 = 0xD2511F53, kPhiloxMul1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9, kPhiloxWeyl1 = 0xBB67AE85;
constexpr int kPhiloxRounds = 10;

struct Philox4 {
  uint32_t word[4];
};

THRIFTY_ANY_SIDE inline Philox4 philox(uint64_t key, Philox4 counter) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t p0 = uint64_t(kPhiloxMul0) * counter.word[0];
    const uint64_t p1 = uint64_t(kPhiloxMul1) * counter.word[2];
    counter = {{uint32_t(p1 >> 32) ^ counter.word[1] ^ k0, uint32_t(p1),
                uint32_t(p0 >> 32) ^ counter.word[3] ^ k1, uint32_t(p0)}};
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  return counter;
}

// Where element (row, column) of a matrix finds its word: 64 columns share 16 counters, and column
// c takes word (c / 16) % 4 of counter c % 16. Vectors of up to 16 lanes and the fragments of
// mma.sync (columns c, c + 16, ...) then use all four words without a shuffle.
struct DropoutPlace {
  uint32_t counter;
  int word;
};

THRIFTY_ANY_SIDE inline DropoutPlace dropout_place(int64_t column) {
  return {uint32_t(column / 64 * 16 + column % 16), int(column / 16 % 4)};
}

THRIFTY_ANY_SIDE inline uint32_t dropout_word(uint64_t seed, uint64_t offset, uint32_t row,
                                              int64_t column) {
  const DropoutPlace place = dropout_place(column);
  return philox(seed, {{place.counter, row, uint32_t(offset), uint32_t(offset >> 32)}})
      .word[place.word];
}

// Inverted dropout: an element is kept when its word is at least `threshold`, and then multiplied
// by `scale`.
struct Dropout {
  uint64_t seed = 0, offset = 0;
  uint32_t threshold = 0;
  double scale = 1;

  Dropout() = default;
  Dropout(double p, uint64_t seed, uint64_t offset)
      : seed(seed), offset(offset), threshold(uint32_t(p * 4294967296.0)), scale(1 / (1 - p)) {}
  THRIFTY_ANY_SIDE bool enabled() const { return threshold != 0; }
};

}  // namespace thrifty
