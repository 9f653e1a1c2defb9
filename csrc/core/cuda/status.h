// What a launch returns to the torch edge.
#pragma once

#include <driver_types.h>

namespace thrifty::cuda {

// What went wrong with which kernel, if anything.
struct LaunchStatus {
  cudaError_t error = cudaSuccess;
  const char* kernel = "";

  bool ok() const { return error == cudaSuccess; }
};

}  // namespace thrifty::cuda
