// One stage of the backward pass (tile_bwd.h has the equations), from the final out and lse alone:
//
//   queries   a block takes a tile of queries through their windows and the list and adds to dq
//   columns   a block takes a block of sorted keys, or of entries of a list, through all tiles of
//             queries that read some of them and adds to dk and dv, or writes its part of the
//             list's gradient
//
// Scores are computed twice, and in return each sum has one owner: no atomics, one order.
#pragma once

#include "attention/core_args.h"

namespace thrifty::attention::cuda {

struct BwdArgs {
  CoreArgs core;
  Tiles tiles;
  CoreRows dout;
  const void *lse = nullptr, *delta = nullptr;  // sums [B, Hq, Nq]; delta = dout . out - dlse
  void *dq = nullptr, *dq_out = nullptr;        // sums and result [B, Hq, Nq, D]
  void *dk = nullptr, *dv = nullptr;            // sums [B, Hkv, Nk, D] and [.., Dv], added to
  int32_t* bounds = nullptr;  // [B, Hq, tiles of queries, 2]: the sorted keys that a tile reads
  int q_tiles = 0;
  // Columns are entries of lists: sums [splits, B, Hkv, entries, D + Dv + 2] of dk, dv, dlogw and
  // dvar, each of the splits over its share of the part's tiles.
  bool listed = false;
  void* list_grads = nullptr;
  int splits = 1;
  int64_t first_entry = 0, entries = 0;
};

int bwd_rows(Dtype dtype, int width);  // queries of a tile, and columns of a block

enum class BwdPass { kQueries, kColumns };
cudaError_t launch_bwd(Dtype dtype, int width, BwdPass pass, const BwdArgs& args,
                       cudaStream_t stream);
cudaError_t launch_bwd_bf16(int width, BwdPass pass, const BwdArgs& args, cudaStream_t stream);
cudaError_t launch_bwd_fp16(int width, BwdPass pass, const BwdArgs& args, cudaStream_t stream);
cudaError_t launch_bwd_simt(Dtype dtype, int width, BwdPass pass, const BwdArgs& args,
                            cudaStream_t stream);

}  // namespace thrifty::attention::cuda
