// A small table from host to device memory, by kernel arguments.
//
// A copy from pageable memory would wait for the stream, and a captured one would read that memory
// again at each replay; arguments are taken when the launch is made or captured.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/cuda/status.h"

namespace thrifty::cuda {

// bytes: a multiple of 4. One launch for each 3968 of them; `host` is free after the call.
LaunchStatus upload(const void* host, int64_t bytes, void* device, cudaStream_t stream);

}  // namespace thrifty::cuda
