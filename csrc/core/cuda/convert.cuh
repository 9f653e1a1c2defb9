// bf16 and fp16 on both sides: conversions to and from float, and pairs packed in 32-bit registers.
//
// All conversions to 16 bits round to nearest even, on the device and on the host alike. A packed
// pair holds the lower-indexed element in its lower half, the order of mma fragments.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/cuda/platform.cuh"

namespace thrifty::cuda {

using bf16 = __nv_bfloat16;
using fp16 = __half;

THRIFTY_HOST_DEVICE float to_float(float value) { return value; }
THRIFTY_HOST_DEVICE float to_float(bf16 value) { return __bfloat162float(value); }
THRIFTY_HOST_DEVICE float to_float(fp16 value) { return __half2float(value); }
THRIFTY_HOST_DEVICE double to_float(double value) { return value; }

// from_float<bf16>(x); the identity for float and double.
template <class T, class Value>
THRIFTY_HOST_DEVICE T from_float(Value value) {
  if constexpr (std::is_same_v<T, bf16>) {
    return __float2bfloat16_rn(float(value));
  } else if constexpr (std::is_same_v<T, fp16>) {
    return __float2half_rn(float(value));
  } else {
    return T(value);
  }
}

template <class T>
THRIFTY_HOST_DEVICE uint32_t pack2(T low, T high) {
  static_assert(sizeof(T) == 2);
  uint16_t bits[2];
  memcpy(&bits[0], &low, 2);
  memcpy(&bits[1], &high, 2);
  return uint32_t(bits[0]) | uint32_t(bits[1]) << 16;
}
// Two floats rounded to T in one register: one cvt.rn.{bf16x2,f16x2} on the device.
template <class T>
THRIFTY_HOST_DEVICE uint32_t pack2_from_float(float low, float high) {
  uint32_t bits;
  if constexpr (std::is_same_v<T, bf16>) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    memcpy(&bits, &pair, 4);
  } else {
    static_assert(std::is_same_v<T, fp16>);
    const __half2 pair = __floats2half2_rn(low, high);
    memcpy(&bits, &pair, 4);
  }
  return bits;
}
template <class T>
THRIFTY_HOST_DEVICE float2 unpack2_to_float(uint32_t bits) {
  T pair[2];
  memcpy(static_cast<void*>(pair), &bits, 4);
  return make_float2(to_float(pair[0]), to_float(pair[1]));
}

}  // namespace thrifty::cuda
