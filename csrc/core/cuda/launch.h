// launch(kernel, grid, block, shared_bytes, stream, args...): the one way a kernel is started.
//
// Returns the launch error; faults inside the kernel surface at the next synchronising call. More
// than 48 KiB of dynamic shared memory is opted into here. A grid with a zero extent (an empty
// tensor) is a success that launches nothing. Under THRIFTY_HOST_CUDA the call runs the kernel to
// its end and throws host::Fault with kernel, block and thread when it misbehaves.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/launch.h"
#else

namespace thrifty::cuda {

inline constexpr size_t kDefaultDynamicShared = 48 * 1024;

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args), "launch: one argument per kernel parameter");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (shared_bytes > kDefaultDynamicShared) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

}  // namespace thrifty::cuda
#endif
