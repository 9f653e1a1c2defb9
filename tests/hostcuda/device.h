// Host form of core/cuda/device.h: the device that a test pretends to have, by default an sm_80.
#pragma once

#include "hostcuda/platform.h"

namespace thrifty::cuda {

struct DeviceInfo {
  int major = 8, processors = 4;
};

namespace host {
inline DeviceInfo pretended_device;
}

inline cudaError_t device_info(DeviceInfo* info) {
  *info = host::pretended_device;
  return cudaSuccess;
}

}  // namespace thrifty::cuda
