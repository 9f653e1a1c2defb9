// The mask application of bitmask.h for one instruction set: 32 tokens a step, one word of the
// mask. A word that allows all of its tokens costs no access to them.
#include "core/simd.h"
#include "sampling/bitmask.h"

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kStep = 32;

// Logits as integers U of their size, in which -inf is one pattern. With AVX-512 a word of the mask
// is the operand of a masked store; elsewhere each lane looks at its bit of the word.
#if defined(__AVX512BW__) && THRIFTY_SIMD_BYTES == 64
THRIFTY_INLINE void apply_word(uint32_t word, uint32_t* p, uint32_t minus_infinity) {
  const __m512i value = _mm512_set1_epi32(int(minus_infinity));
  _mm512_mask_storeu_epi32(p, __mmask16(~word), value);
  _mm512_mask_storeu_epi32(p + 16, __mmask16(~word >> 16), value);
}
THRIFTY_INLINE void apply_word(uint32_t word, uint16_t* p, uint16_t minus_infinity) {
  _mm512_mask_storeu_epi16(p, __mmask32(~word), _mm512_set1_epi16(short(minus_infinity)));
}
#else
template <class U>
THRIFTY_INLINE void apply_word(uint32_t word, U* p, U minus_infinity) {
  constexpr int kBits = int(8 * sizeof(U));  // of the word, as many as a lane holds: 16 or 32
  constexpr int kBytes = kSimdBytes < kBits * int(sizeof(U)) ? kSimdBytes : kBits * int(sizeof(U));
  typedef U Lanes __attribute__((vector_size(kBytes)));
  constexpr int kCount = kBytes / int(sizeof(U));
  for (int first = 0; first < kStep; first += kCount) {
    Lanes bit, x;
    for (int i = 0; i < kCount; ++i) bit[i] = U(1u << ((first + i) % kBits));
    __builtin_memcpy(&x, p + first, sizeof x);
    const U part = U(word >> (first / kBits * kBits));
    x = ((part - Lanes{}) & bit) == bit ? x : minus_infinity - Lanes{};
    __builtin_memcpy(p + first, &x, sizeof x);
  }
}
#endif

template <class U>
THRIFTY_INLINE void apply(int64_t n, const uint32_t* mask, void* logits_, U minus_infinity) {
  U* logits = static_cast<U*>(logits_);
  const int64_t full = n / kStep;
  for (int64_t step = 0; step < full; ++step) {
    if (mask[step] != ~0u) apply_word(mask[step], logits + step * kStep, minus_infinity);
  }
  for (int64_t i = full * kStep; i < n; ++i) {
    if ((mask[full] >> (i % kStep) & 1) == 0) logits[i] = minus_infinity;
  }
}

void apply_float32(int64_t n, const uint32_t* mask, void* logits) {
  apply<uint32_t>(n, mask, logits, 0xff800000u);
}
void apply_bfloat16(int64_t n, const uint32_t* mask, void* logits) {
  apply<uint16_t>(n, mask, logits, 0xff80);
}
void apply_float16(int64_t n, const uint32_t* mask, void* logits) {
  apply<uint16_t>(n, mask, logits, 0xfc00);
}

}  // namespace

extern const sampling::BitmaskTable bitmask_table{{apply_float32, apply_bfloat16, apply_float16}};

}  // namespace thrifty::THRIFTY_ISA
