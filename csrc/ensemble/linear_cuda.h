// The layers on CUDA: the same Layer as on the CPU (linear.h), its pointers on the device.
//
// Nothing here synchronises, allocates or reads device memory, so calls may be captured in a CUDA
// graph. Everything is deterministic.
#pragma once

#include "core/cuda/status.h"
#include "ensemble/linear.h"

namespace thrifty::ensemble::cuda {

using Status = thrifty::cuda::LaunchStatus;

// Kernels count rows of a member, columns and members in 32 bits: std::invalid_argument beyond.
void check_counts(const std::string& op, const Layer& layer);

// As ensemble::linear_fwd and linear_bwd. `scratch`: so many bytes as linear_bwd_scratch says, on
// 16. Backward cuts its long sums until there are `blocks` blocks; the default, two for each
// multiprocessor of an H100, is the same everywhere, so that results do not depend on the device.
constexpr int64_t kEnoughBlocks = 264;

Status linear_fwd(const Layer& layer, void* out, void* z, cudaStream_t stream);
int64_t linear_bwd_scratch(const Layer& layer, const LayerGrads& grads,
                           int64_t blocks = kEnoughBlocks);
Status linear_bwd(const Layer& layer, const void* grad, const void* z, const LayerGrads& grads,
                  void* scratch, cudaStream_t stream, int64_t blocks = kEnoughBlocks);

}  // namespace thrifty::ensemble::cuda
