// Warp shuffles, votes and matches (CUDA C++ Programming Guide, "Warp Shuffle Functions" ff).
//
// mask names the lanes that take part: every one of them must call, with the same mask. Only
// syncwarp orders memory; a shuffle or a vote does not. Reading from a lane outside the mask is
// undefined (poison on the host). The host stops on a mask that names a lane which has exited.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/warp.h"
#else

namespace thrifty::cuda {

// The value that lane `source` of the caller's segment of `width` lanes holds.
template <class T>
THRIFTY_DEVICE T shfl(T value, int source, uint32_t mask = kFullMask, int width = kWarpSize) {
  return __shfl_sync(mask, value, source, width);
}
template <class T>
THRIFTY_DEVICE T shfl_xor(T value, int bits, uint32_t mask = kFullMask, int width = kWarpSize) {
  return __shfl_xor_sync(mask, value, bits, width);
}
// From `delta` lanes above resp. below; a lane with no such partner in its segment keeps its value.
template <class T>
THRIFTY_DEVICE T shfl_down(T value, int delta, uint32_t mask = kFullMask, int width = kWarpSize) {
  return __shfl_down_sync(mask, value, unsigned(delta), width);
}
template <class T>
THRIFTY_DEVICE T shfl_up(T value, int delta, uint32_t mask = kFullMask, int width = kWarpSize) {
  return __shfl_up_sync(mask, value, unsigned(delta), width);
}

THRIFTY_DEVICE uint32_t warp_ballot(bool predicate, uint32_t mask = kFullMask) {
  return __ballot_sync(mask, predicate);
}
THRIFTY_DEVICE bool warp_any(bool predicate, uint32_t mask = kFullMask) {
  return __any_sync(mask, predicate);
}
THRIFTY_DEVICE bool warp_all(bool predicate, uint32_t mask = kFullMask) {
  return __all_sync(mask, predicate);
}
// The lanes of mask whose value has the caller's bits.
template <class T>
THRIFTY_DEVICE uint32_t warp_match(T value, uint32_t mask = kFullMask) {
  return __match_any_sync(mask, value);
}

THRIFTY_DEVICE void syncwarp(uint32_t mask = kFullMask) { __syncwarp(mask); }

}  // namespace thrifty::cuda
#endif

namespace thrifty::cuda {

// Butterfly reductions: every lane of the segment of `width` lanes gets the result, bit for bit the
// same. All 32 lanes call.
template <int width = kWarpSize, class T>
THRIFTY_DEVICE T warp_sum(T value) {
#pragma unroll
  for (int bits = width / 2; bits > 0; bits /= 2) value += shfl_xor(value, bits);
  return value;
}
template <int width = kWarpSize, class T>
THRIFTY_DEVICE T warp_max(T value) {
#pragma unroll
  for (int bits = width / 2; bits > 0; bits /= 2) {
    const T other = shfl_xor(value, bits);
    value = value < other ? other : value;
  }
  return value;
}

}  // namespace thrifty::cuda
