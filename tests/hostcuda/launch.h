// launch on the host: runs the grid to its end, block by block.
#pragma once

#include <functional>
#include <tuple>
#include <utility>

#include "hostcuda/options.h"
#include "hostcuda/platform.h"

namespace thrifty::cuda {

namespace host {
void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()>& thread_body);
}  // namespace host

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t, Args&&... args) {
  static_assert(sizeof...(Params) == sizeof...(Args), "launch: one argument per kernel parameter");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  const std::tuple<std::remove_const_t<Params>...> values(static_cast<Params>(args)...);
  host::run_grid(reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
                 [&] { std::apply(kernel, values); });
  return cudaSuccess;
}

}  // namespace thrifty::cuda
