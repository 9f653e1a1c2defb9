// Elementary functions on vectors, for `*_isa.cpp` files only. float: polynomials, a few units in
// the last place; double: libm lane by lane (float64 is there for gradient checks, not for speed).
// NaN goes through.
#pragma once

#include "core/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

template <class T>
THRIFTY_INLINE Vec<T> clamp(Vec<T> x, T low, T high) {
  x = x < low ? splat(low) : x;
  return x > high ? splat(high) : x;
}

// e^x = 2^n e^t with n = round(x log2 e) and |t| <= log(2) / 2, split as in Cody and Waite (1980);
// Taylor to t^6 leaves 1.3e-7. Beyond [-87, 88] the result is 0 or infinity, so that 1 / (1 + e^x)
// and y e^-x end where they should.
THRIFTY_INLINE Vec<float> exp(Vec<float> x) {
  constexpr float kLow = -87, kHigh = 88;
  const Vec<float> bounded = clamp(x, kLow, kHigh);
  const Vec<float> shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> shifted = bounded * 1.44269504f + shifter;
  const Vec<float> n = shifted - shifter;
  Vec<float> t = bounded - n * 0.693359375f;
  t = t + n * 2.12194440e-4f;
  Vec<float> e = splat(1.0f / 720);
  e = e * t + 1.0f / 120;
  e = e * t + 1.0f / 24;
  e = e * t + 1.0f / 6;
  e = e * t + 0.5f;
  e = e * t + 1.0f;
  e = e * t + 1.0f;
  e *= Vec<float>((UVec<float>(shifted) - UVec<float>(shifter) + 127) << 23);
  e = x < kLow ? Vec<float>{} : e;
  return x > kHigh ? splat(__builtin_inff()) : e;
}

THRIFTY_INLINE Vec<double> exp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_exp(x[i]);
  return x;
}

// erf by Abramowitz and Stegun 7.1.26: absolute error 1.5e-7, one rounding at 1.
THRIFTY_INLINE Vec<float> erf(Vec<float> x) {
  const UVec<float> sign = UVec<float>(x) & 0x80000000u;
  const Vec<float> a = Vec<float>(UVec<float>(x) ^ sign);
  const Vec<float> t = 1.0f / (1.0f + 0.3275911f * a);
  Vec<float> p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vec<float> y = 1.0f - p * t * exp(-a * a);
  return Vec<float>(UVec<float>(y) | sign);
}

THRIFTY_INLINE Vec<double> erf(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = __builtin_erf(x[i]);
  return x;
}

template <class T>
THRIFTY_INLINE Vec<T> sigmoid(Vec<T> x) {
  return T(1) / (T(1) + exp(-x));
}

template <class T>
THRIFTY_INLINE Vec<T> tanh(Vec<T> x) {
  return T(1) - T(2) / (T(1) + exp(T(2) * x));
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
