// hyper_attention and hyper_core on CUDA: what hyper.h computes, with pointers to the device.
//
// Launches per call, whatever the number of nodes and heads: the table of parts, the queries sorted
// by window, the lists, then one a stage (core_args.h). A row's sums wait in scratch between its
// stages, 4 Dv + 8 bytes a row and head, where causal. Nothing is read back from the device, and no
// sum depends on timing: equal calls give equal bits.
#pragma once

#include "attention/hyper.h"
#include "core/cuda/status.h"

namespace thrifty::attention::cuda {

// hyper_core's queries: q_order [B, Hq, Nq], q_offsets [B, Hq, windows + 1]. Its plan has no
// q_window.
struct HyperCall {
  Hyper hyper;
  const int32_t *q_order = nullptr, *q_offsets = nullptr;
};

int64_t hyper_fwd_scratch(const HyperCall& call);  // bytes
thrifty::cuda::LaunchStatus hyper_fwd(const HyperCall& call, void* out, void* lse, void* scratch,
                                      cudaStream_t stream);

// The gradients of BackwardArgs; those of a list that is given are written, not added to.
int64_t hyper_bwd_scratch(const HyperCall& call);
thrifty::cuda::LaunchStatus hyper_bwd(const HyperCall& call, const BackwardArgs& grads,
                                      void* scratch, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
