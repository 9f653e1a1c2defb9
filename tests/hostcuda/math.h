// Host form of core/cuda/math.cuh: full precision.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace thrifty::cuda {

inline float fast_exp(float x) { return std::exp(x); }
inline float fast_log(float x) { return std::log(x); }
inline float fast_divide(float x, float y) { return x / y; }
inline float reciprocal_sqrt(float x) { return 1.0f / std::sqrt(x); }

inline int popcount(uint32_t bits) { return std::popcount(bits); }
inline int find_first_set(uint32_t bits) { return bits ? std::countr_zero(bits) + 1 : 0; }
inline int count_leading_zeros(uint32_t bits) { return std::countl_zero(bits); }
inline uint32_t multiply_high(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline uint32_t float_as_bits(float x) { return std::bit_cast<uint32_t>(x); }
inline float bits_as_float(uint32_t x) { return std::bit_cast<float>(x); }

}  // namespace thrifty::cuda
