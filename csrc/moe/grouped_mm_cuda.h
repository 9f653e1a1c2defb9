// grouped_mm on CUDA: the same arguments as on the CPU (grouped_mm.h), pointers on the device.
//
// The offsets stay there. Ones that do not rise or leave [0, S] give wrong numbers, as do rows of
// a_idx that a does not have (zeros), but no access outside an array.
#pragma once

#include "core/cuda/status.h"
#include "moe/grouped_mm.h"

namespace thrifty::moe::cuda {

using Status = thrifty::cuda::LaunchStatus;

void check_grouped(const GroupedMm& product);  // what the kernels do not take
Status grouped_mm(const GroupedMm& product, void* out, cudaStream_t stream);

}  // namespace thrifty::moe::cuda
