// token_topk, gather_rows and scatter_add_rows on CUDA: what token_rows.h says, its pointers on the
// device. Deterministic: rows that share a place are sorted by it (stably) and added in order.
//
// Nothing synchronises, allocates or reads the device: indices may change between a graph's
// replays.
#pragma once

#include "core/cuda/status.h"
#include "moe/token_rows.h"

namespace thrifty::moe::cuda {

using Status = thrifty::cuda::LaunchStatus;

Status token_topk(const TokenTopk& topk, void* weights, int64_t* index, cudaStream_t stream);
Status gather_rows(const TokenRowsOp& op, void* out, cudaStream_t stream);
int64_t scatter_add_rows_scratch(const TokenRowsOp& op);  // bytes
Status scatter_add_rows(const TokenRowsOp& op, void* out, void* scratch, cudaStream_t stream);

}  // namespace thrifty::moe::cuda
