// The block kernels of logits.h for one instruction set. A step takes 32 tokens, one word of the
// mask, whatever the width of a vector.
#include "core/logits.h"
#include "core/simd_math.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kStep = 32;
constexpr int kVectors = kStep / kLanes<float>;
using F = Vec<float>;
using M = IVec<float>;  // all bits of a lane, or none

// e^x for x <= 0 or hardly above; 0 below -87; NaN for NaN. 2^n e^t as in simd_math.h, with t^6 by
// minimax (relative error 2e-9) and exact at 0.
THRIFTY_INLINE F exp_of(F x) {
  constexpr float kLowest = -87;
  constexpr float kShift = 12582912.0f + 127;  // 1.5 * 2^23 + bias: low bits become the exponent
  const F shifted = x * 1.44269504f + kShift;
  const F n = shifted - kShift;
  F t = x - n * 0.693359375f;
  t = t + n * 2.12194440e-4f;
  F e = splat(1.3836883e-3f);
  e = e * t + 8.3748158e-3f;
  e = e * t + 4.1668236e-2f;
  e = e * t + 1.6666418e-1f;
  e = e * t + 4.9999991e-1f;
  e = e * t + 1.0f;
  e = e * t + 1.0f;
  e *= F(UVec<float>(shifted) << 23);
  return x < kLowest ? F{} : e;
}

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

THRIFTY_INLINE float sum_of(const F (&v)[kVectors]) {
  float lane[kLanes<float>];
  F sum = v[0];
  for (int i = 1; i < kVectors; ++i) sum += v[i];
  store(lane, sum);
  for (int half = kLanes<float> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

THRIFTY_INLINE float max_of(const F (&v)[kVectors]) {
  float lane[kLanes<float>];
  F top = v[0];
  for (int i = 1; i < kVectors; ++i) top = v[i] > top ? v[i] : top;
  store(lane, top);
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
    F top[kVectors];
    for (F& t : top) t = splat(kNoLogit);
    for_steps(block, [&](int64_t, const S* p) __attribute__((always_inline)) {
      for (int v = 0; v < kVectors; ++v) {
        const F x = load_at(p, v);
        top[v] = x > top[v] ? x : top[v];
      }
    });
    return max_of(top);
  }

  static float max(const LogitsBlock& block) {
    F top[kVectors];
    for (F& t : top) t = splat(kNoLogit);
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for (int v = 0; v < kVectors; ++v) {
        const F x = load_at(p, v);
        const M better = kept(block, word, v, x) & (x > top[v]);
        top[v] = better ? x : top[v];
      }
    });
    return max_of(top);
  }

  static float sum(const LogitsBlock& block, float ref, float* weighted) {
    F total[kVectors] = {}, moment[kVectors] = {};
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for (int v = 0; v < kVectors; ++v) {
        const F l = load_at(p, v), x = l * block.inv_temperature - ref;
        const F w = only(kept(block, word, v, l), exp_of(x));
        total[v] += w;
        if (weighted != nullptr) moment[v] += w > 0.0f ? w * x : F{};
      }
    });
    if (weighted != nullptr) *weighted = sum_of(moment);
    return sum_of(total);
  }

  // Below this share of the block the kept tokens get a reference of their own: float32 has 1e-38.
  static constexpr float kSmall = 1e-18f;

  static BlockSum kept_alone(const LogitsBlock& block) {
    const float top = max(block);
    if (top == kNoLogit) return {};
    const float ref = top * block.inv_temperature;
    return {ref, sum(block, ref, nullptr)};
  }

  static THRIFTY_INLINE bool names_any(const uint32_t* mask) {
    uint32_t any = 0;
    for (int i = 0; i < kBlockWords; ++i) any |= mask[i];
    return any != 0;
  }

  static void sums(const LogitsBlock& block, BlockSum* all, BlockSum* kept_sum) {
    const float top = max_of_all(block);
    const float ref = top == kNoLogit ? 0.0f : top * block.inv_temperature;
    const bool bounded = block.at_least != kNoLogit;
    const bool some = bounded || block.mask != nullptr;
    F total[kVectors] = {}, part[kVectors] = {};
    if (!some || (block.mask != nullptr && !names_any(block.mask))) {
      for_steps(block, [&](int64_t, const S* p) __attribute__((always_inline)) {
        for (int v = 0; v < kVectors; ++v) {
          total[v] += exp_of(load_at(p, v) * block.inv_temperature - ref);
        }
      });
    } else {
      for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
        const uint32_t word = word_of(block, step);
        for (int v = 0; v < kVectors; ++v) {
          const F l = load_at(p, v), w = exp_of(l * block.inv_temperature - ref);
          total[v] += w;
          part[v] += only(kept(block, word, v, l), w);
        }
      });
    }
    const float sum = sum_of(total);
    *all = sum == 0 ? BlockSum{} : BlockSum{ref, sum};
    if (!some) {
      *kept_sum = *all;
    } else {
      const float kept_part = sum_of(part);
      *kept_sum = kept_part >= kSmall ? BlockSum{ref, kept_part} : kept_alone(block);
    }
  }

  static void weights(const LogitsBlock& block, float ref, float* weights) {
    for_steps(block, [&](int64_t step, const S* p) __attribute__((always_inline)) {
      const uint32_t word = word_of(block, step);
      for (int v = 0; v < kVectors; ++v) {
        const F l = load_at(p, v);
        const F w = exp_of(l * block.inv_temperature - ref);
        store(weights + step * kStep + v * kLanes<float>, only(kept(block, word, v, l), w));
      }
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
    F count[kVectors] = {}, total[kVectors] = {}, squares[kVectors] = {}, top[kVectors];
    for (F& t : top) t = splat(kNoLogit);
    over([&](int v, F x, M finite) __attribute__((always_inline)) {
      count[v] += only(finite, splat(1.0f));
      total[v] += only(finite, x);
      const M better = finite & (x > top[v]);
      top[v] = better ? x : top[v];
    });
    LogitMoments m;
    m.count = double(sum_of(count));
    m.max = max_of(top);
    if (m.count == 0) return m;
    m.mean = double(sum_of(total)) / m.count;
    const float center = float(m.mean);
    over([&](int v, F x, M finite) __attribute__((always_inline)) {
      const F distance = only(finite, x - center);
      squares[v] += distance * distance;
    });
    const double off = m.mean - double(center);  // squares about the mean, not about the float
    m.squares = double(sum_of(squares)) - m.count * off * off;
    return m;
  }
};

template <class S>
constexpr LogitsKernels kernels() {
  using K = Kernels<S>;
  return {K::sums, K::max, K::sum, K::weights, K::collect, K::moments};
}

}  // namespace

extern const LogitsTable logits_table{{kernels<float>(), kernels<BFloat16>(), kernels<Float16>()}};

}  // namespace thrifty::THRIFTY_ISA
