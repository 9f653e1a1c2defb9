// What the current device is, for the choice of a kernel. Asks the runtime's cache: no call to the
// device, so it may be used while a CUDA graph is captured.
#pragma once

#include "core/cuda/platform.cuh"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/device.h"
#else

namespace thrifty::cuda {

struct DeviceInfo {
  int major = 0;       // of its compute capability; 9 runs what is compiled for sm_90a
  int processors = 1;  // multiprocessors
};

inline cudaError_t device_info(DeviceInfo* info) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  const auto ask = [&](int* value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, attribute, device);
  };
  ask(&info->major, cudaDevAttrComputeCapabilityMajor);
  ask(&info->processors, cudaDevAttrMultiProcessorCount);
  return error;
}

}  // namespace thrifty::cuda
#endif
