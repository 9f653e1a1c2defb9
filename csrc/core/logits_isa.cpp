// The block kernels of logits.h for one instruction set. A step takes 32 tokens, one word of the
// mask, whatever the width of a vector.
#include "core/logits.h"
#include "core/simd_math.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kStep = 32;
constexpr int kVectors = kStep / kLanes<float>;
constexpr int kGroup = kVectors < 4 ? kVectors : 4;  // vectors whose weights are found together
using F = Vec<float>;
using M = IVec<float>;  // all bits of a lane, or none

// y becomes 2^y, for y <= 1 or so; 0 below -126.5; NaN for NaN. 2^n 2^f with n = round(y): 2^f by a
// minimax polynomial that is exact at 0 (relative error 9e-8). Where n = -127, the bits of 2^n are
// those of 0. Stage by stage over independent vectors: one after the other, their chains of 12
// operations fill the processor's queue, and it takes a third longer.
template <int N>
THRIFTY_INLINE void exp2_of(F (&y)[N]) {
  constexpr float kShift = 12582912.0f + 127;  // 1.5 * 2^23 + bias: low bits become the exponent
  const F lowest = splat(-127.0f);
  F shifted[N], e[N];
  for (int i = 0; i < N; ++i) y[i] = lowest > y[i] ? lowest : y[i];
  for (int i = 0; i < N; ++i) shifted[i] = y[i] + kShift;
  for (int i = 0; i < N; ++i) y[i] -= shifted[i] - kShift;
  for (int i = 0; i < N; ++i) e[i] = y[i] * 1.32645911e-3f + 9.67161916e-3f;
  for (int i = 0; i < N; ++i) e[i] = e[i] * y[i] + 5.55073507e-2f;
  for (int i = 0; i < N; ++i) e[i] = e[i] * y[i] + 2.40222409e-1f;
  for (int i = 0; i < N; ++i) e[i] = e[i] * y[i] + 6.93147004e-1f;
  for (int i = 0; i < N; ++i) e[i] = e[i] * y[i] + 1.0f;
  for (int i = 0; i < N; ++i) y[i] = e[i] * F(UVec<float>(shifted[i]) << 23);
}

// Weights of a block relative to 2^exponent(top): w = 2^((l - top) scale + fraction). The
// difference comes first, so that no temperature and no common offset of the logits costs digits.
struct Relative {
  float top, scale, fraction;

  Relative(const LogitsBlock& block, float top_)
      : top(top_ == kNoLogit ? 0.0f : top_), scale(log2_scale(block.inv_temperature)) {
    fraction = float(double(top) * double(scale) - exponent_of(top, scale));
  }
  THRIFTY_INLINE F log2(F logits) const { return (logits - top) * scale + fraction; }
};

// x where `lanes`, else 0.
THRIFTY_INLINE F only(M lanes, F x) { return F(M(x) & lanes); }

// Which of the step's tokens in vector v the word names.
THRIFTY_INLINE M lanes_of(uint32_t word, int v) {
  M bit;
  for (int i = 0; i < kLanes<float>; ++i) bit[i] = int32_t(1u << (v * kLanes<float> + i));
  return (splat(int32_t(word)) & bit) == bit;
}

// One bit per lane, from lanes that are all ones or all zeros.
THRIFTY_INLINE uint32_t bits_of(M lanes) {
#if defined(__AVX2__) && THRIFTY_SIMD_BYTES == 32
  return uint32_t(_mm256_movemask_ps(__m256(lanes)));
#elif defined(__AVX512DQ__) && THRIFTY_SIMD_BYTES == 64
  return uint32_t(_mm512_movepi32_mask(__m512i(lanes)));
#else
  uint32_t bits = 0;
  for (int i = 0; i < kLanes<float>; ++i) bits |= uint32_t(lanes[i] & 1) << i;
  return bits;
#endif
}

// Two sums, or maxima, per lane: vector v of a step goes to number v % 2. More would not fit the
// registers.
typedef F Sums[2];

THRIFTY_INLINE float sum_of(const Sums& v) {
  float lane[kLanes<float>];
  store(lane, v[0] + v[1]);
  for (int half = kLanes<float> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

THRIFTY_INLINE float max_of(const Sums& v) {
  float lane[kLanes<float>];
  store(lane, v[1] > v[0] ? v[1] : v[0]);
  for (int half = kLanes<float> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  }
  return lane[0];
}

template <class S>
struct Kernels {
  static THRIFTY_INLINE F load_at(const S* p, int v) {
    return Stored<float, S>::load(p + v * kLanes<float>);
  }

  // weight(v, w) for the vectors v of a step at p.
  template <class Body>
  static THRIFTY_INLINE void for_weights(const Relative& relative, const S* p, const Body& body) {
    for (int first = 0; first < kVectors; first += kGroup) {
      F w[kGroup];
      for (int i = 0; i < kGroup; ++i) w[i] = relative.log2(load_at(p, first + i));
      exp2_of(w);
      for (int i = 0; i < kGroup; ++i) body(first + i, w[i]);
    }
  }

  // body(step, p): p[32] are the step's logits, -inf beyond the block's end.
  template <class Body>
  static THRIFTY_INLINE void for_steps(const LogitsBlock& block, const Body& body) {
    const S* p = static_cast<const S*>(block.logits);
    const int64_t full = block.n / kStep;
    for (int64_t step = 0; step < full; ++step) body(step, p + step * kStep);
    const int64_t rest = block.n % kStep;
    if (rest == 0) return;
    S last[kStep];
    for (int v = 0; v < kVectors; ++v) {
      Stored<float, S>::store(last + v * kLanes<float>, splat(kNoLogit));
    }
    __builtin_memcpy(last, p + full * kStep, size_t(rest) * sizeof(S));
    body(full, last);
  }

  static THRIFTY_INLINE uint32_t word_of(const LogitsBlock& block, int64_t step) {
    return block.mask == nullptr ? ~0u : block.mask[step];
  }

  static THRIFTY_INLINE M kept(const LogitsBlock& block, uint32_t word, int v, F logits) {
    return lanes_of(word, v) & (logits >= block.at_least);
  }

  static THRIFTY_INLINE float max_of_all(const LogitsBlock& block) {
    Sums top = {splat(kNoLogit), splat(kNoLogit)};
    for_steps(block, [&](int64_t, const S* p) __attribute__((always_inline)) {
      for (int v = 0; v < kVectors; ++v) {
        const F x = load_at(p, v);
        top[v % 2] = x > top[v % 2] ? x : top[v % 2];
      }
    });
    return max_of(top);
  }

  static float max(const LogitsBlock& block) {
    Sums top = {splat(kNoLogit), splat(kNoLogit)};
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for (int v = 0; v < kVectors; ++v) {
        const F x = load_at(p, v);
        const M better = kept(block, word, v, x) & (x > top[v % 2]);
        top[v % 2] = better ? x : top[v % 2];
      }
    });
    return max_of(top);
  }

  static float sum(const LogitsBlock& block, float top, float* weighted) {
    const Relative relative(block, top);
    Sums total = {}, moment = {};
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for_weights(relative, p, [&](int v, F w) __attribute__((always_inline)) {
        const F l = load_at(p, v), kept_w = only(kept(block, word, v, l), w);
        total[v % 2] += kept_w;
        if (weighted != nullptr) moment[v % 2] += kept_w > 0.0f ? kept_w * relative.log2(l) : F{};
      });
    });
    if (weighted != nullptr) *weighted = sum_of(moment);
    return sum_of(total);
  }

  static BlockMass mass(const LogitsBlock& block, float top, float sum) {
    if (sum == 0) return {};
    const float from = top == kNoLogit ? 0.0f : top;  // of a block of NaN
    return {from, sum, exponent_of(from, log2_scale(block.inv_temperature))};
  }

  static BlockMass kept_alone(const LogitsBlock& block) {
    const float top = max(block);
    return top == kNoLogit ? BlockMass{} : mass(block, top, sum(block, top, nullptr));
  }

  static THRIFTY_INLINE bool names_any(const uint32_t* mask) {
    uint32_t any = 0;
    for (int i = 0; i < kBlockWords; ++i) any |= mask[i];
    return any != 0;
  }

  // Below this share of the block the kept tokens get a reference of their own: float32 has 1e-38.
  static constexpr float kSmall = 1e-18f;

  static void masses(const LogitsBlock& block, BlockMass* all, BlockMass* kept_mass) {
    const float top = max_of_all(block);
    const Relative relative(block, top);
    const bool masked = block.mask != nullptr, bounded = block.at_least != kNoLogit;
    Sums total = {}, part = {};
    if (!masked || bounded || !names_any(block.mask)) {
      for_steps(block, [&](int64_t, const S* p) __attribute__((always_inline)) {
        for_weights(relative, p,
                    [&](int v, F w) __attribute__((always_inline)) { total[v % 2] += w; });
      });
    } else {
      for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
        const uint32_t word = block.mask[step];
        for_weights(relative, p, [&](int v, F w) __attribute__((always_inline)) {
          total[v % 2] += w;
          part[v % 2] += only(lanes_of(word, v), w);
        });
      });
    }
    *all = mass(block, top, sum_of(total));
    const float kept_part = sum_of(part);
    *kept_mass = !masked && !bounded   ? *all
                 : kept_part >= kSmall ? mass(block, top, kept_part)
                                       : kept_alone(block);
  }

  static void weights(const LogitsBlock& block, float top, float* weights) {
    const Relative relative(block, top);
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for_weights(relative, p, [&](int v, F w) __attribute__((always_inline)) {
        const M lanes = kept(block, word, v, load_at(p, v));
        store(weights + step * kStep + v * kLanes<float>, only(lanes, w));
      });
    });
    const int64_t end = (block.n + kStep - 1) / kStep * kStep;
    __builtin_memset(weights + end, 0, size_t(kLogitsBlock - end) * sizeof(float));
  }

  static int collect(const LogitsBlock& block, float bound, int32_t first_id, Ranked* out) {
    const float least = bound > block.at_least ? bound : block.at_least;
    int count = 0;
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for (int v = 0; v < kVectors; ++v) {
        const int place = v * kLanes<float>;
        const F x = load_at(p, v);
        uint32_t found = bits_of(x >= least);
        if (kLanes<float> < 32) found &= word >> place;
        for (; found != 0; found &= found - 1) {
          const int lane = __builtin_ctz(found);
          out[count++] = {x[lane], first_id + int32_t(step * kStep) + place + lane};
        }
      }
    });
    return count;
  }

  static LogitMoments moments(const LogitsBlock& block) {
    const auto over = [&](auto body) __attribute__((always_inline)) {
      for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
        const uint32_t word = word_of(block, step);
        for (int v = 0; v < kVectors; ++v) {
          const F x = load_at(p, v);
          body(v, x, kept(block, word, v, x) & (x > kNoLogit) & (x < -kNoLogit));
        }
      });
    };
    Sums count = {}, total = {}, squares = {}, top = {splat(kNoLogit), splat(kNoLogit)};
    over([&](int v, F x, M finite) __attribute__((always_inline)) {
      count[v % 2] += only(finite, splat(1.0f));
      total[v % 2] += only(finite, x);
      const M better = finite & (x > top[v % 2]);
      top[v % 2] = better ? x : top[v % 2];
    });
    LogitMoments m;
    m.count = double(sum_of(count));
    m.max = max_of(top);
    if (m.count == 0) return m;
    m.mean = double(sum_of(total)) / m.count;
    const float center = float(m.mean);
    over([&](int v, F x, M finite) __attribute__((always_inline)) {
      const F distance = only(finite, x - center);
      squares[v % 2] += distance * distance;
    });
    const double off = m.mean - double(center);  // squares about the mean, not about the float
    m.squares = double(sum_of(squares)) - m.count * off * off;
    return m;
  }
};

template <class S>
constexpr LogitsKernels kernels() {
  using K = Kernels<S>;
  return {K::masses, K::max, K::sum, K::weights, K::collect, K::moments};
}

}  // namespace

extern const LogitsTable logits_table{{kernels<float>(), kernels<BFloat16>(), kernels<Float16>()}};

}  // namespace thrifty::THRIFTY_ISA
