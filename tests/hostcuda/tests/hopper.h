// While it lives, launches choose Hopper's kernels: on the host by pretending to have one with few
// processors, so that a block has several tiles; a GPU of another kind skips the test.
#pragma once

#include "core/cuda/device.h"
#include "hostcuda/harness.h"
#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/options.h"
#endif

namespace thrifty::cuda::testing {

struct Hopper {
#if defined(THRIFTY_HOST_CUDA)
  Hopper() { host::pretended_device = {9, 3}; }
  ~Hopper() { host::pretended_device = {}; }
#else
  Hopper() { needs_sm90(); }
#endif
};

#if defined(THRIFTY_HOST_CUDA)
// Hopper's products need more shared memory than an sm_80 has, or than the others take, which do
// not: says which ran.
template <class Body>
bool runs_on_hopper(const Body& body, size_t limit = size_t(163) << 10) {
  host::options().shared_limit = limit;
  bool refused = false;
  try {
    body();
  } catch (const host::Fault&) {
    refused = true;
  }
  host::options().shared_limit = host::Options().shared_limit;
  return refused;
}
#endif

}  // namespace thrifty::cuda::testing
