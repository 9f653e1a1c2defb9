// moe_route on CUDA: the same arguments as on the CPU (route.h), pointers on the device.
#pragma once

#include <string>

#include "core/cuda/status.h"
#include "moe/route.h"

namespace thrifty::moe::cuda {

using Status = thrifty::cuda::LaunchStatus;

// A warp keeps its token's scores in shared memory: std::invalid_argument beyond so many experts.
constexpr int64_t kMaxRouted = 1024;
void check_route(const Route& route);

// As moe_route_fwd and moe_route_bwd of route.h; ids outside [0, E) have no gradient.
int64_t moe_route_scratch(const Route& route, bool stats);  // bytes
Status moe_route_fwd(const Route& route, void* weights, int32_t* ids, void* score_sum,
                     int32_t* count, void* scratch, cudaStream_t stream);
Status moe_route_bwd(const Route& route, const void* grad, const int32_t* ids, void* dlogits,
                     cudaStream_t stream);

}  // namespace thrifty::moe::cuda
