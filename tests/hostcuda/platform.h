// CUDA's keywords and built-in variables for an ordinary C++20 compiler.
//
// The threads of a block are fibers on one OS thread, so the built-in variables are plain globals
// that the runtime sets at every switch. Shared memory is a slot of the block's arena, keyed by the
// place of its declaration, the same for all threads of the block.
#pragma once

#include <driver_types.h>
#include <vector_functions.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <type_traits>

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__
#undef __shared__
#define __shared__ static_assert(false, "declare shared memory with THRIFTY_SHARED");

#define THRIFTY_DEVICE inline
#define THRIFTY_HOST_DEVICE inline

// Operations that touch memory are part of the kernel's own code, so that reports name its lines.
#define THRIFTY_HOST_OP inline __attribute__((always_inline))

#define THRIFTY_SHARED(type, name, dims)                                        \
  static char name##_key;                                                       \
  using name##_type = type dims;                                                \
  auto& name = *static_cast<name##_type*>(::thrifty::cuda::host::shared_static( \
      &name##_key, #name, sizeof(name##_type), alignof(type) < 16 ? 16 : alignof(type)))

#define THRIFTY_DYNAMIC_SHARED(type, name) \
  type* const name = static_cast<type*>(::thrifty::cuda::host::shared_dynamic())

namespace thrifty::cuda::host {

struct Extent {  // dim3 without its constructor, so that the variables below are plain data
  unsigned x, y, z;
};
inline constinit uint3 thread_idx{};
inline constinit uint3 block_idx{};
inline constinit Extent block_dim{1, 1, 1};
inline constinit Extent grid_dim{1, 1, 1};

void* shared_static(const void* key, const char* name, size_t bytes, size_t align);
void* shared_dynamic();

}  // namespace thrifty::cuda::host

inline constexpr uint3& threadIdx = thrifty::cuda::host::thread_idx;
inline constexpr uint3& blockIdx = thrifty::cuda::host::block_idx;
inline constexpr thrifty::cuda::host::Extent& blockDim = thrifty::cuda::host::block_dim;
inline constexpr thrifty::cuda::host::Extent& gridDim = thrifty::cuda::host::grid_dim;
