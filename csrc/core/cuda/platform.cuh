// The ground every kernel header stands on: the CUDA keywords and shared memory.
//
// A kernel includes only core/cuda headers. nvcc compiles them to the device; with
// THRIFTY_HOST_CUDA an ordinary C++20 compiler takes the same kernel source with the implementation
// under tests/hostcuda, where the threads of a block are fibers. docs/cuda.md is the guide.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/platform.h"
#else
#include <cuda_runtime.h>

#define THRIFTY_DEVICE __device__ __forceinline__
#define THRIFTY_HOST_DEVICE __host__ __device__ __forceinline__

// Static shared memory: THRIFTY_SHARED(float, tile, [2][64][40]); the tile starts on 16 bytes.
#define THRIFTY_SHARED(type, name, dims) __shared__ __align__(16) type name dims

// The dynamic shared memory of the launch as type*; starts on 1024 bytes, the period of the widest
// swizzle.
#define THRIFTY_DYNAMIC_SHARED(type, name)                                  \
  extern __shared__ __align__(1024) unsigned char thrifty_dynamic_shared[]; \
  type* const name = reinterpret_cast<type*>(thrifty_dynamic_shared)
#endif

namespace thrifty::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr uint32_t kFullMask = 0xffffffffu;

}  // namespace thrifty::cuda
