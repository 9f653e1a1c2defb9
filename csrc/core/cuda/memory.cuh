// Vector loads and stores of 2 to 16 bytes, and read-only loads.
//
// Vec<T, N> is one aligned register group: load_vec<8>(p) is one 16-byte load of 8 bf16. The
// address must be a multiple of the size; the host checks it, the device faults.
#pragma once

#include "core/cuda/platform.cuh"

namespace thrifty::cuda {

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  static_assert(sizeof(T) * N <= 16 && (sizeof(T) * N & (sizeof(T) * N - 1)) == 0,
                "Vec: 1, 2, 4, 8 or 16 bytes");
  T data[N];
  THRIFTY_HOST_DEVICE constexpr T& operator[](int i) { return data[i]; }
  THRIFTY_HOST_DEVICE constexpr const T& operator[](int i) const { return data[i]; }
};

}  // namespace thrifty::cuda

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/memory.h"
#else

namespace thrifty::cuda {

// The machine type of one access; a struct of 8 halves may otherwise be moved half by half.
template <size_t bytes>
struct AccessType;
template <>
struct AccessType<1> {
  using type = uint8_t;
};
template <>
struct AccessType<2> {
  using type = uint16_t;
};
template <>
struct AccessType<4> {
  using type = uint32_t;
};
template <>
struct AccessType<8> {
  using type = uint2;
};
template <>
struct AccessType<16> {
  using type = uint4;
};

template <int N, class T>
THRIFTY_DEVICE Vec<T, N> load_vec(const T* address) {
  using Access = typename AccessType<sizeof(Vec<T, N>)>::type;
  const Access raw = *reinterpret_cast<const Access*>(address);
  Vec<T, N> value;
  memcpy(&value, &raw, sizeof(raw));
  return value;
}
// Through the read-only cache: nobody may write the memory while the kernel runs.
template <int N, class T>
THRIFTY_DEVICE Vec<T, N> load_vec_readonly(const T* address) {
  using Access = typename AccessType<sizeof(Vec<T, N>)>::type;
  const Access raw = __ldg(reinterpret_cast<const Access*>(address));
  Vec<T, N> value;
  memcpy(&value, &raw, sizeof(raw));
  return value;
}
template <int N, class T>
THRIFTY_DEVICE void store_vec(T* address, const Vec<T, N>& value) {
  using Access = typename AccessType<sizeof(Vec<T, N>)>::type;
  Access raw;
  memcpy(&raw, &value, sizeof(raw));
  *reinterpret_cast<Access*>(address) = raw;
}

}  // namespace thrifty::cuda
#endif

namespace thrifty::cuda {

template <class T>
THRIFTY_DEVICE T load_readonly(const T* address) {
  return load_vec_readonly<1>(address)[0];
}

}  // namespace thrifty::cuda
