// moe_mlp on CUDA: the same Mlp as on the CPU (mlp.h), its pointers on the device.
//
// Nothing synchronises, allocates or reads the device: ids may change between replays of a graph.
// Deterministic. An expert's output is rounded to the storage format before the weighted sum, which
// runs in float32 and in the order of the choices.
#pragma once

#include "core/cuda/status.h"
#include "moe/mlp.h"

namespace thrifty::moe::cuda {

using Status = thrifty::cuda::LaunchStatus;

void check_mlp(const Mlp& mlp);  // what the kernels do not take

// As moe_mlp_fwd and moe_mlp_bwd of mlp.h, but that z is [S, up rows]: a row per sorted row.
// `scratch`: so many bytes, on 256.
int64_t moe_mlp_fwd_scratch(const Mlp& mlp);
Status moe_mlp_fwd(const Mlp& mlp, void* out, void* z, void* scratch, cudaStream_t stream);
int64_t moe_mlp_bwd_scratch(const Mlp& mlp, bool has_z, const MlpGrads& grads);
Status moe_mlp_bwd(const Mlp& mlp, const void* grad, const void* z, const MlpGrads& grads,
                   void* scratch, cudaStream_t stream);

}  // namespace thrifty::moe::cuda
