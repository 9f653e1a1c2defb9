// The storage formats one element at a time in plain double arithmetic, independent of simd.h, and
// random values whose products and sums are exact.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>

#include "core/dtype.h"

namespace thrifty::test {

// 16-bit formats: 1 sign bit, 15 - mantissa exponent bits, mantissa bits.
struct Format {
  int mantissa, bias;
  uint16_t infinity() const { return uint16_t((2 * bias + 1) << mantissa); }
};
constexpr Format kBFloat16Format{7, 127}, kFloat16Format{10, 15};
constexpr Format format_of(Dtype dtype) {
  return dtype == Dtype::kBFloat16 ? kBFloat16Format : kFloat16Format;
}

inline double decode(Format f, uint16_t bits) {
  const int magnitude = bits & 0x7fff, exponent = magnitude >> f.mantissa;
  const int fraction = magnitude & ((1 << f.mantissa) - 1);
  double value;
  if (magnitude >= f.infinity()) {
    value = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    value = std::ldexp(fraction, 1 - f.bias - f.mantissa);
  } else {
    value = std::ldexp((1 << f.mantissa) + fraction, exponent - f.bias - f.mantissa);
  }
  return bits & 0x8000 ? -value : value;
}

// Nearest, ties to even. The steps of size 2^(exponent - mantissa) include the leading bit, which
// carries into the exponent field by itself.
inline uint16_t encode(Format f, double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return uint16_t(sign | f.infinity() | 1 << (f.mantissa - 1));
  if (std::isinf(value)) return sign | f.infinity();
  const int exponent = value == 0 ? 1 - f.bias : std::max(std::ilogb(value), 1 - f.bias);
  const double steps = std::nearbyint(std::ldexp(std::fabs(value), f.mantissa - exponent));
  const int64_t bits = (int64_t(exponent + f.bias - 1) << f.mantissa) + int64_t(steps);
  return uint16_t(sign | std::min<int64_t>(bits, f.infinity()));
}

inline double get(Dtype dtype, const void* data, int64_t i) {
  const auto* p = static_cast<const char*>(data) + i * dtype_size(dtype);
  float f;
  double d;
  uint16_t h;
  switch (dtype) {
    case Dtype::kFloat32: return std::memcpy(&f, p, 4), f;
    case Dtype::kFloat64: return std::memcpy(&d, p, 8), d;
    default: return std::memcpy(&h, p, 2), decode(format_of(dtype), h);
  }
}

inline void put(Dtype dtype, void* data, int64_t i, double value) {
  auto* p = static_cast<char*>(data) + i * dtype_size(dtype);
  const float f = float(value);
  const uint16_t h = is_half(dtype) ? encode(format_of(dtype), value) : 0;
  switch (dtype) {
    case Dtype::kFloat32: std::memcpy(p, &f, 4); break;
    case Dtype::kFloat64: std::memcpy(p, &value, 8); break;
    default: std::memcpy(p, &h, 2);
  }
}

// `value` rounded to `dtype`.
inline double rounded(Dtype dtype, double value) {
  double bytes;
  put(dtype, &bytes, 0, value);
  return get(dtype, &bytes, 0);
}

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  uint64_t bits() { return engine_(); }
  double uniform(double low, double high) {
    return low + (high - low) * std::ldexp(double(engine_() >> 11), -53);
  }
  // Multiples of 1/4 in [-1, 1]: products and sums of thousands of them fit float's 24 bits, so a
  // test that uses them needs no tolerance.
  double quarter() { return double(int(engine_() % 9) - 4) / 4; }
  // +-1/2, +-1 or +-2: a factor that adds no bits.
  double power() { return std::ldexp(engine_() & 1 ? 1.0 : -1.0, int(engine_() % 3) - 1); }

 private:
  std::mt19937_64 engine_;
};

}  // namespace thrifty::test
