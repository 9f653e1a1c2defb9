// Scalar functions whose CUDA names an ordinary C++ compiler does not have, and bit tricks.
//
// expf, erff, tanhf, sqrtf, fmaf, fmaxf, fminf and their double forms exist on both sides and are
// used as they are. fast_* are the hardware approximations: 2 ulp and a bit for fast_exp near 0,
// growing with |x|; the host computes them to full precision, so tests allow for the difference.
#pragma once

#include <cmath>

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/math.h"
#else

namespace thrifty::cuda {

// Results below 2^-126 become 0. PTX, as __expf without -ftz spends three more instructions on
// them.
THRIFTY_DEVICE float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
  return y;
}
THRIFTY_DEVICE float fast_log(float x) { return __logf(x); }
THRIFTY_DEVICE float fast_divide(float x, float y) { return __fdividef(x, y); }
THRIFTY_DEVICE float reciprocal_sqrt(float x) { return rsqrtf(x); }

THRIFTY_DEVICE int popcount(uint32_t bits) { return __popc(bits); }
// 1 + the index of the lowest set bit, 0 for none.
THRIFTY_DEVICE int find_first_set(uint32_t bits) { return __ffs(int(bits)); }
THRIFTY_DEVICE int count_leading_zeros(uint32_t bits) { return __clz(int(bits)); }
THRIFTY_DEVICE uint32_t multiply_high(uint32_t a, uint32_t b) { return __umulhi(a, b); }
THRIFTY_DEVICE uint32_t float_as_bits(float x) { return __float_as_uint(x); }
THRIFTY_DEVICE float bits_as_float(uint32_t x) { return __uint_as_float(x); }

}  // namespace thrifty::cuda
#endif
