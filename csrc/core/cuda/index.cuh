// Where a thread stands: lane, warp and warpgroup of its block.
//
// threadIdx, blockIdx, blockDim and gridDim are CUDA's own and may be used directly. Warps are cut
// along x, so a block has blockDim.y == blockDim.z == 1 or blockDim.x a multiple of 32.
#pragma once

#include "core/cuda/warp.cuh"

namespace thrifty::cuda {

THRIFTY_DEVICE int thread_rank() {
  return int(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
}
THRIFTY_DEVICE int lane_index() { return int(threadIdx.x % kWarpSize); }
THRIFTY_DEVICE int warp_index() { return thread_rank() / kWarpSize; }

// The same for all lanes as far as the compiler can tell, so that branches on it do not diverge:
// wgmma and setmaxnreg need that. All 32 lanes call it together.
THRIFTY_DEVICE int uniform_warp_index() { return shfl(warp_index(), 0); }
THRIFTY_DEVICE int uniform_warpgroup_index() { return uniform_warp_index() / 4; }

}  // namespace thrifty::cuda
