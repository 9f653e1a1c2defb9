// Vectors of whatever width the instruction set has, for `*_isa.cpp` files only.
//
// GCC/Clang vector extensions: one source serves SSE2, AVX2, AVX-512 and other machines, and a
// 64-byte build with baseline flags runs the AVX-512 logic on any machine (tests use that).
// Everything here has internal linkage: an inline function with external linkage would be emitted
// once per instruction set under one name, and the linker could keep the AVX-512 copy for a machine
// without AVX-512.
#pragma once

#include <cstdint>
#include <cstring>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include "core/dtype.h"

#ifndef THRIFTY_SIMD_BYTES
#if defined(__AVX512F__)
#define THRIFTY_SIMD_BYTES 64
#elif defined(__AVX2__)
#define THRIFTY_SIMD_BYTES 32
#else
#define THRIFTY_SIMD_BYTES 16
#endif
#endif

#define THRIFTY_INLINE __attribute__((always_inline)) inline

namespace thrifty::THRIFTY_ISA {
namespace {

constexpr int kSimdBytes = THRIFTY_SIMD_BYTES;

template <class T>
struct VecOf {
  typedef T type __attribute__((vector_size(kSimdBytes)));
};
template <class T>
using Vec = typename VecOf<T>::type;
template <class T>
constexpr int kLanes = kSimdBytes / int(sizeof(T));

// The type of a comparison of Vec<T>, and integers of T's size.
template <class T>
struct IntOf;
template <>
struct IntOf<float> {
  using type = int32_t;
  using utype = uint32_t;
};
template <>
struct IntOf<double> {
  using type = int64_t;
  using utype = uint64_t;
};
template <class T>
using IVec = Vec<typename IntOf<T>::type>;
template <class T>
using UVec = Vec<typename IntOf<T>::utype>;

// `value - 0` is `value` for every float, -0 and NaN included, so this is one broadcast; `value +
// 0` is an addition, and an initialiser list makes GCC 12 build the vector lane by lane.
template <class T>
THRIFTY_INLINE Vec<T> splat(T value) {
  return value - Vec<T>{};
}

template <class T>
THRIFTY_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
THRIFTY_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// --- 16-bit storage: the bits in the low half of 32-bit lanes ------------------------------------

typedef uint16_t HalfBits __attribute__((vector_size(kSimdBytes / 2)));

THRIFTY_INLINE UVec<float> widen_bits(const uint16_t* p) {
#if defined(__AVX512F__) && THRIFTY_SIMD_BYTES == 64
  return UVec<float>(
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__AVX2__) && THRIFTY_SIMD_BYTES == 32
  return UVec<float>(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else  // GCC 12 widens in two halves where one instruction would do
  HalfBits h;
  __builtin_memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, UVec<float>);
#endif
}

THRIFTY_INLINE void narrow_bits(uint16_t* p, UVec<float> bits) {
  const HalfBits h = __builtin_convertvector(bits, HalfBits);
  __builtin_memcpy(p, &h, sizeof h);
}

THRIFTY_INLINE Vec<float> from_bfloat16(UVec<float> bits) { return Vec<float>(bits << 16); }

// Round to nearest even; a NaN stays a NaN (its payload could otherwise round to infinity).
THRIFTY_INLINE UVec<float> to_bfloat16(Vec<float> v) {
  const UVec<float> bits = UVec<float>(v);
  const UVec<float> rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const UVec<float> nan = (bits >> 16) | 0x40;
  return v == v ? rounded : nan;
}

// Exponent re-bias by a multiplication with 2^112, which also makes subnormals right; infinities
// and NaN keep their bits.
THRIFTY_INLINE Vec<float> from_float16(UVec<float> bits) {
  const UVec<float> magnitude = (bits & 0x7fff) << 13;
  const Vec<float> scaled = Vec<float>(magnitude) * 0x1p112f;
  const UVec<float> special = magnitude | 0x7f800000;
  const UVec<float> value = magnitude >= (0x7c00u << 13) ? special : UVec<float>(scaled);
  return Vec<float>(value | (bits & 0x8000) << 16);
}

// Round to nearest even. Below 2^-14 the subnormal's 24 bits are aligned by adding 0.5; above, the
// carry of the rounding may run into the exponent, as it should.
THRIFTY_INLINE UVec<float> to_float16(Vec<float> v) {
  const UVec<float> bits = UVec<float>(v);
  const UVec<float> magnitude = bits & 0x7fffffff;
  const UVec<float> normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const UVec<float> small = UVec<float>(Vec<float>(magnitude) + 0.5f) - 0x3f000000;
  const UVec<float> overflow = UVec<float>{} + 0x7c00;
  const UVec<float> nan = (magnitude >> 13) | 0x7e00;
  UVec<float> half = magnitude < (113u << 23) ? small : normal;
  half = magnitude >= (0x477ff000u) ? overflow : half;
  half = magnitude > 0x7f800000 ? (nan & 0x7fff) : half;
  return half | (bits >> 16 & 0x8000);
}

// --- one storage format: how a vector of accumulators is read from and written to it -------------

template <class Acc, class Storage>
struct Stored;

template <class Acc>
struct Stored<Acc, Acc> {
  static THRIFTY_INLINE Vec<Acc> load(const Acc* p) { return THRIFTY_ISA::load(p); }
  static THRIFTY_INLINE void store(Acc* p, Vec<Acc> v) { THRIFTY_ISA::store(p, v); }
};

template <>
struct Stored<float, BFloat16> {
  static THRIFTY_INLINE Vec<float> load(const BFloat16* p) {
    return from_bfloat16(widen_bits(&p->bits));
  }
  static THRIFTY_INLINE void store(BFloat16* p, Vec<float> v) {
    narrow_bits(&p->bits, to_bfloat16(v));
  }
};

template <>
struct Stored<float, Float16> {
  static THRIFTY_INLINE Vec<float> load(const Float16* p) {
#if defined(__F16C__) && THRIFTY_SIMD_BYTES == 32
    return Vec<float>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    return from_float16(widen_bits(&p->bits));
#endif
  }
  static THRIFTY_INLINE void store(Float16* p, Vec<float> v) {
    narrow_bits(&p->bits, to_float16(v));
  }
};

// Loads and stores of the first `n` lanes only; the lanes beyond read as zero.
template <class Acc, class Storage>
THRIFTY_INLINE Vec<Acc> load_part(const Storage* p, int64_t n) {
  if (n >= kLanes<Acc>) return Stored<Acc, Storage>::load(p);
  Storage part[kLanes<Acc>] = {};
  std::memcpy(part, p, size_t(n) * sizeof(Storage));
  return Stored<Acc, Storage>::load(part);
}

template <class Acc, class Storage>
THRIFTY_INLINE void store_part(Storage* p, Vec<Acc> v, int64_t n) {
  if (n >= kLanes<Acc>) return Stored<Acc, Storage>::store(p, v);
  Storage part[kLanes<Acc>];
  Stored<Acc, Storage>::store(part, v);
  std::memcpy(p, part, size_t(n) * sizeof(Storage));
}

// Calls body(i, left) for the vectors of [0, n); `left` lanes of a vector at i are there.
template <class T, class Body>
THRIFTY_INLINE void for_vectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) body(i, kLanes<T>);  // a constant: no test for the end
  if (i < n) body(i, n - i);
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
