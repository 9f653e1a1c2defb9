// What surrounds the backward pass of the core: delta, sums that begin at 0 and are rounded once,
// and the gradient of a list's entries, spread over the keys that they stand for.
#pragma once

#include "attention/core_bwd.h"
#include "attention/core_table.h"

namespace thrifty::attention::cuda {

// delta [rows] = dout . out - dlse; out [B, H, Nq, Dv] and dlse [B, H, Nq] (or null) are dense.
struct DeltaArgs {
  CoreRows dout;
  const void *out = nullptr, *dlse = nullptr;
  void* delta = nullptr;
  int64_t rows = 0;
  int nq = 0, heads = 0, dv = 0;
};
LaunchStatus make_delta(Dtype dtype, const DeltaArgs& args, cudaStream_t stream);

// sums[n] = 0; out[n] = sums[n] in the storage format, sums null: 0.
LaunchStatus clear_sums(Dtype dtype, void* sums, int64_t n, cudaStream_t stream);
LaunchStatus round_sums(Dtype dtype, const void* sums, int64_t n, void* out, cudaStream_t stream);

// Gradients of a list that is given; null: the list is made of keys.
struct GivenOut {
  void *k = nullptr, *v = nullptr, *logw = nullptr, *var = nullptr;
};
LaunchStatus spread_list(Dtype dtype, const BwdArgs& args, const Stage& stage,
                         const GivenOut& given, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
