// moe_permute on CUDA: the same arguments as on the CPU (permute.h), pointers on the device.
#pragma once

#include "core/cuda/status.h"
#include "moe/permute.h"

namespace thrifty::moe::cuda {

using Status = thrifty::cuda::LaunchStatus;

int64_t moe_permute_scratch(const Permute& permute);  // bytes, on 256
Status moe_permute(const Permute& permute, int32_t* slot, int32_t* offsets, int32_t* inverse,
                   void* scratch, cudaStream_t stream);

}  // namespace thrifty::moe::cuda
