// One stage of the forward pass: a block takes a tile of queries through their windows and the list
// by one online softmax (tile.h has the equations), like flash attention with gathered keys.
//
// Blocks of keys lie at multiples of kColumns, and one in which a row sees nothing leaves its sums
// their bits: so a row does not depend on the rows that share its tile.
#pragma once

#include "attention/core_args.h"

namespace thrifty::attention::cuda {

// What a row has seen so far, for rows that several stages read: sums [B, Hq, Nq, ld], max and sum
// [B, Hq, Nq]. ld: a multiple of 4, so that pieces of a row are vectors.
struct Running {
  void *sums = nullptr, *max = nullptr, *sum = nullptr;
  int ld = 0;
};

struct FwdArgs {
  CoreArgs core;
  Tiles tiles;
  Running running;
  void *out = nullptr, *lse = nullptr;  // dense
};

// Queries of a tile, and columns of a block.
struct TileShape {
  int rows, columns;
};
TileShape fwd_shape(Dtype dtype, int width);  // width: the larger one of D and Dv

cudaError_t launch_fwd(Dtype dtype, int width, const FwdArgs& args, cudaStream_t stream);
cudaError_t launch_fwd_bf16(int width, const FwdArgs& args, cudaStream_t stream);
cudaError_t launch_fwd_fp16(int width, const FwdArgs& args, cudaStream_t stream);
// On Hopper (core_fwd_sm90.cuh); cudaErrorNotSupported: not with these arguments.
cudaError_t launch_fwd_bf16_sm90(int width, const FwdArgs& args, int processors,
                                 cudaStream_t stream);
cudaError_t launch_fwd_fp16_sm90(int width, const FwdArgs& args, int processors,
                                 cudaStream_t stream);
cudaError_t launch_fwd_simt(Dtype dtype, int width, const FwdArgs& args, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
