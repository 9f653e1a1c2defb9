// Verification on CUDA: the same checked arguments as on the CPU (verify.h), their pointers on the
// device. Nothing here synchronises, allocates or reads device memory; ids, links and
// probabilities are trusted by no kernel: a sequence with wrong ones gets the status kBadDraft and
// emits nothing. The random numbers are the CPU's, so are the tokens. `scratch`: so many bytes as
// the op's function says, on 256.
#pragma once

#include <driver_types.h>

#include "core/row_measure.h"
#include "drafting/verify.h"

namespace thrifty::drafting::cuda {

using thrifty::cuda::LaunchStatus;

int64_t row_stats_scratch(const RowStats& call);
LaunchStatus row_stats(const RowStats& call, const RowStatsOut& out, void* scratch,
                       cudaStream_t stream);

int64_t verify_tree_scratch(const VerifyTree& call);
LaunchStatus verify_tree(const VerifyTree& call, const VerifyOut& out, void* scratch,
                         cudaStream_t stream);

int64_t verify_chain_scratch(const VerifyChain& call);
LaunchStatus verify_chain(const VerifyChain& call, const VerifyOut& out, void* scratch,
                          cudaStream_t stream);

}  // namespace thrifty::drafting::cuda
