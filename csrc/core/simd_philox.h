// Philox4x32-10 (philox.h) on vectors, for `*_isa.cpp` files only: one counter a lane.
//
// Even and odd lanes run as two streams of 64-bit lanes whose low halves hold the state: the
// multiplier reads the low halves only, so no round has to put 32-bit vectors together again. 1.3
// times faster than doing so (AVX2).
#pragma once

#include "core/philox.h"
#include "core/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

using Wide = Vec<uint64_t>;

// The products of the low halves.
THRIFTY_INLINE Wide multiply_low(Wide v, uint32_t factor) {
#if defined(__AVX512F__) && THRIFTY_SIMD_BYTES == 64
  return Wide(_mm512_mul_epu32(__m512i(v), _mm512_set1_epi64(factor)));
#elif defined(__AVX2__) && THRIFTY_SIMD_BYTES == 32
  return Wide(_mm256_mul_epu32(__m256i(v), _mm256_set1_epi64x(factor)));
#else
  return (v & 0xffffffffu) * uint64_t(factor);
#endif
}

struct PhiloxWords {
  UVec<float> word[4];
};

// counter word 0 differs by lane, the others are the same for all.
THRIFTY_INLINE PhiloxWords philox(uint64_t key, UVec<float> counter0, uint32_t counter1,
                                  uint64_t counter23) {
  const Wide zero{};
  Wide c[2][4];
  for (int odd = 0; odd < 2; ++odd) {
    c[odd][0] = odd ? Wide(counter0) >> 32 : Wide(counter0);
    c[odd][1] = zero + counter1;
    c[odd][2] = zero + (counter23 & 0xffffffffu);
    c[odd][3] = zero + (counter23 >> 32);
  }
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (auto& s : c) {
      const Wide p0 = multiply_low(s[0], kPhiloxMul0), p1 = multiply_low(s[2], kPhiloxMul1);
      s[0] = p1 >> 32 ^ s[1] ^ uint64_t(k0);
      s[1] = p1;
      s[2] = p0 >> 32 ^ s[3] ^ uint64_t(k1);
      s[3] = p0;
    }
    k0 += kPhiloxWeyl0;
    k1 += kPhiloxWeyl1;
  }
  PhiloxWords words;
  for (int w = 0; w < 4; ++w) {
    words.word[w] = UVec<float>((c[0][w] & 0xffffffffu) | c[1][w] << 32);
  }
  return words;
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
