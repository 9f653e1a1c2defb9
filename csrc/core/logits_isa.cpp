// The block kernels of logits.h for one instruction set. A step takes 32 tokens, one word of the
// mask, whatever the width of a vector.
#include "core/logits.h"
#include "core/simd_math.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kStep = 32;
constexpr int kVectors = kStep / kLanes<float>;
constexpr int kGroup = 2;  // vectors whose weights are found together
using F = Vec<float>;
using M = IVec<float>;  // all bits of a lane, or none

// x y + z, rounded once where the processor can.
#if defined(__AVX512F__) && THRIFTY_SIMD_BYTES == 64
constexpr bool kFusedMultiplyAdd = true;
THRIFTY_INLINE F fused_multiply_add(F x, F y, F z) {
  return F(_mm512_fmadd_ps(__m512(x), __m512(y), __m512(z)));
}
#elif defined(__FMA__) && THRIFTY_SIMD_BYTES == 32
constexpr bool kFusedMultiplyAdd = true;
THRIFTY_INLINE F fused_multiply_add(F x, F y, F z) {
  return F(_mm256_fmadd_ps(__m256(x), __m256(y), __m256(z)));
}
#else
constexpr bool kFusedMultiplyAdd = false;
THRIFTY_INLINE F fused_multiply_add(F x, F y, F z) { return x * y + z; }
#endif

// The larger of each lane, x where that is a NaN. Said so, GCC 12 compares and blends.
#if defined(__AVX512F__) && THRIFTY_SIMD_BYTES == 64
THRIFTY_INLINE F larger(F low, F x) { return F(_mm512_max_ps(__m512(low), __m512(x))); }
#elif defined(__AVX2__) && THRIFTY_SIMD_BYTES == 32
THRIFTY_INLINE F larger(F low, F x) { return F(_mm256_max_ps(__m256(low), __m256(x))); }
#else
THRIFTY_INLINE F larger(F low, F x) { return low > x ? low : x; }
#endif

// A weight 2^x as e p with p = 2^n and e = 2^y, x = n + y, |y| <= 1/2.
struct Powers {
  F e[kGroup], p[kGroup];
};

// 2^y by a minimax polynomial that is exact at 0 (relative error 9e-8). The low bits of `shifted`
// are n + 127, the exponent field of p; where n = -127, the bits of p are those of 0. Stage by
// stage over independent vectors: one after the other, their chains fill the processor's queue.
THRIFTY_INLINE Powers powers_of(const F (&y)[kGroup], const F (&shifted)[kGroup]) {
  Powers w;
  for (int i = 0; i < kGroup; ++i) w.e[i] = y[i] * 1.32645911e-3f + 9.67161916e-3f;
  for (int i = 0; i < kGroup; ++i) w.e[i] = w.e[i] * y[i] + 5.55073507e-2f;
  for (int i = 0; i < kGroup; ++i) w.e[i] = w.e[i] * y[i] + 2.40222409e-1f;
  for (int i = 0; i < kGroup; ++i) w.e[i] = w.e[i] * y[i] + 6.93147004e-1f;
  for (int i = 0; i < kGroup; ++i) w.e[i] = w.e[i] * y[i] + 1.0f;
  for (int i = 0; i < kGroup; ++i) w.p[i] = F(UVec<float>(shifted[i]) << 23);
  return w;
}

constexpr float kShift = 12582912.0f + 127;  // 1.5 * 2^23 + bias: adding it rounds to an integer

// Weights of a block relative to 2^exponent(top): w = 2^(l scale - exponent), 0 below -126.5, NaN
// for NaN and +inf. `Fused` is for nearly all blocks where there are fused multiply-adds: l scale
// is then rounded once, in y, so that neither the temperature nor a common offset of the logits
// costs digits. `Differences` is for any: w = 2^((l - top) scale + fraction).
class Fused {
 public:
  // Integers about the exponent and 2^23 have to be float32, and -inf scale to be low.
  static bool fits(float scale, double exponent) {
    return kFusedMultiplyAdd && exponent > -0x1p20 && exponent < 0x1p20 && scale > 1e-35f;
  }
  Fused(float scale, double exponent)
      : lowest_(float((exponent - 127) / double(scale))),
        scale_(scale),
        exponent_(float(exponent)),
        shift_(kShift - exponent_) {}

  THRIFTY_INLINE F log2(F l) const {
    return fused_multiply_add(l, splat(scale_), -splat(exponent_));
  }
  THRIFTY_INLINE Powers weights(F (&l)[kGroup]) const {
    const F scale = splat(scale_), shift = splat(shift_);
    F shifted[kGroup];
    for (F& x : l) x = larger(splat(lowest_), x);
    for (int i = 0; i < kGroup; ++i) shifted[i] = fused_multiply_add(l[i], scale, shift);
    for (int i = 0; i < kGroup; ++i) {
      l[i] = fused_multiply_add(l[i], scale, shift - shifted[i]);
    }
    return powers_of(l, shifted);
  }

 private:
  float lowest_, scale_, exponent_, shift_;
};

class Differences {
 public:
  Differences(float top, float scale, double exponent)
      : top_(top), scale_(scale), fraction_(float(double(top) * double(scale) - exponent)) {}

  THRIFTY_INLINE F log2(F l) const { return (l - top_) * scale_ + fraction_; }
  THRIFTY_INLINE Powers weights(F (&l)[kGroup]) const {
    F shifted[kGroup];
    for (F& x : l) x = larger(splat(-127.0f), log2(x));
    for (int i = 0; i < kGroup; ++i) shifted[i] = l[i] + kShift;
    for (int i = 0; i < kGroup; ++i) l[i] -= shifted[i] - kShift;
    return powers_of(l, shifted);
  }

 private:
  float top_, scale_, fraction_;
};

// body(relative) with the one of the two that fits.
template <class Body>
THRIFTY_INLINE void with_relative(const LogitsBlock& block, float top_, const Body& body) {
  const float top = top_ == kNoLogit ? 0.0f : top_, scale = log2_scale(block.inv_temperature);
  const double exponent = exponent_of(top, scale);
  if (Fused::fits(scale, exponent)) {
    body(Fused(scale, exponent));
  } else {
    body(Differences(top, scale, exponent));
  }
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

  // body(v, l, e, p) for the vectors v of a step at `from`: logits, and their weights e p.
  template <class Relative, class Body>
  static THRIFTY_INLINE void for_weights(const Relative& relative, const S* from,
                                         const Body& body) {
    for (int first = 0; first < kVectors; first += kGroup) {
      F l[kGroup], reduced[kGroup];
      for (int i = 0; i < kGroup; ++i) reduced[i] = l[i] = load_at(from, first + i);
      const Powers w = relative.weights(reduced);
      for (int i = 0; i < kGroup; ++i) body(first + i, l[i], w.e[i], w.p[i]);
    }
  }

  // body(step, p): p[32] are the step's logits, -inf beyond the block's end. The last ones are
  // copied first: across a call of memcpy, no sum would stay in a register.
  template <class Body>
  static THRIFTY_INLINE void for_steps(const LogitsBlock& block, const Body& body) {
    const S* p = static_cast<const S*>(block.logits);
    const int64_t full = block.n / kStep, rest = block.n % kStep;
    S last[kStep];
    if (rest != 0) {
      for (int v = 0; v < kVectors; ++v) {
        Stored<float, S>::store(last + v * kLanes<float>, splat(kNoLogit));
      }
      __builtin_memcpy(last, p + full * kStep, size_t(rest) * sizeof(S));
    }
    for (int64_t step = 0; step < full; ++step) body(step, p + step * kStep);
    if (rest != 0) body(full, last);
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
    Sums total = {}, moment = {};
    with_relative(block, top, [&](const auto& relative) __attribute__((always_inline)) {
      for_steps(block, [&](int64_t step, const S* from) __attribute__((always_inline)) {
        const uint32_t word = word_of(block, step);
        for_weights(relative, from, [&](int v, F l, F e, F p) __attribute__((always_inline)) {
          const F w = only(kept(block, word, v, l), e * p);
          total[v % 2] += w;
          if (weighted != nullptr) moment[v % 2] += w > 0.0f ? w * relative.log2(l) : F{};
        });
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

  // The same step of the block after next, whose maximum comes next: processors stop fetching ahead
  // at the end of a page, which a block of float32 fills. A fetch beyond the row does nothing.
  static THRIFTY_INLINE void prefetch(const LogitsBlock& block, int64_t step) {
    constexpr int kBytes = kStep * int(sizeof(S)), kAhead = 2 * int(kLogitsBlock * sizeof(S));
    const char* next = static_cast<const char*>(block.logits) + kAhead + step * kBytes;
    for (int i = 0; i < kBytes; i += 64) __builtin_prefetch(next + i);
  }

  static THRIFTY_INLINE void masses_of(const LogitsBlock& block, float top, BlockMass* all,
                                       BlockMass* kept_mass) {
    const bool masked = block.mask != nullptr, bounded = block.at_least != kNoLogit;
    Sums total = {}, part = {};
    with_relative(block, top, [&](const auto& relative) __attribute__((always_inline)) {
      if (!masked || bounded || !names_any(block.mask)) {
        for_steps(block, [&](int64_t step, const S* from) __attribute__((always_inline)) {
          prefetch(block, step);
          for_weights(relative, from, [&](int v, F, F e, F p) __attribute__((always_inline)) {
            total[v % 2] += e * p;
          });
        });
      } else {
        for_steps(block, [&](int64_t step, const S* from) __attribute__((always_inline)) {
          const uint32_t word = block.mask[step];
          prefetch(block, step);
          for_weights(relative, from, [&](int v, F, F e, F p) __attribute__((always_inline)) {
            total[v % 2] += e * p;
            part[v % 2] += only(lanes_of(word, v), e) * p;
          });
        });
      }
    });
    *all = mass(block, top, sum_of(total));
    const float kept_part = sum_of(part);
    *kept_mass = !masked && !bounded   ? *all
                 : kept_part >= kSmall ? mass(block, top, kept_part)
                                       : kept_alone(block);
  }

  // The maximum of a block is found before the sums of the one before it, so that no sum has to
  // wait for its reference: a third of the time otherwise.
  static void masses(const LogitsBlock& blocks, BlockMass* all, BlockMass* kept) {
    const int64_t count = (blocks.n + kLogitsBlock - 1) / kLogitsBlock;
    const auto part = [&](int64_t b) __attribute__((always_inline)) {
      LogitsBlock block = blocks;
      block.logits = static_cast<const S*>(blocks.logits) + b * kLogitsBlock;
      block.n = b + 1 < count ? kLogitsBlock : blocks.n - b * kLogitsBlock;
      if (block.mask != nullptr) block.mask += b * kBlockWords;
      return block;
    };
    float top = max_of_all(part(0));
    for (int64_t b = 0; b < count; ++b) {
      const float next = b + 1 < count ? max_of_all(part(b + 1)) : kNoLogit;
      masses_of(part(b), top, all + b, kept + b);
      top = next;
    }
  }

  static void weights(const LogitsBlock& block, float top, float* weights) {
    with_relative(block, top, [&](const auto& relative) __attribute__((always_inline)) {
      for_steps(block, [&](int64_t step, const S* from) __attribute__((always_inline)) {
        const uint32_t word = word_of(block, step);
        for_weights(relative, from, [&](int v, F l, F e, F p) __attribute__((always_inline)) {
          const F w = only(kept(block, word, v, l), e * p);
          store(weights + step * kStep + v * kLanes<float>, w);
        });
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
