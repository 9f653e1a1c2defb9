// The layer's kernels beside its products: sums over a token's experts, over an expert's rows, and
// the routing weights' gradient (mlp_sums.cu).
#pragma once

#include "moe/grouped_args.h"

namespace thrifty::moe::cuda {

// out[t] = sum over k of w[t, k] y[inverse[t, k]], k in order; slots without an expert count
// nothing. Without weights: the sum of the rows.
struct Combine {
  Dtype dtype = Dtype::kFloat32;  // of y and out
  const void* y = nullptr;        // [S, H] by sorted row
  void* out = nullptr;            // [T, H]
  const int32_t* inverse = nullptr;
  Groups groups{};
  Numbers weights{};
  int64_t tokens = 0;
  int top_k = 0, width = 0;
  bool vectors = false;  // 16 bytes of a row may be one access
};

// token[r] = order[r] / K.
struct Tokens {
  const int32_t* order = nullptr;
  int32_t* token = nullptr;
  int64_t slots = 0;
  int top_k = 1;
};

// dw[slot of r] = sum over tiles of ds[tile][r], in order, + <dO of r's token, b2_e>; 0 for slots
// without an expert.
struct WeightGrads {
  const void* ds = nullptr;  // [tiles, S] sums
  int tiles = 0;
  const int32_t* order = nullptr;
  Groups groups{};
  int top_k = 1;
  Dtype dtype = Dtype::kFloat32;  // of dO
  const void* d_out = nullptr;    // [T, H]
  int width = 0;
  Numbers b2{};  // [E, H], or absent
  void* out = nullptr;
  Dtype out_dtype = Dtype::kFloat32;
};

// out[e] = sum over the rows r of e of s_r x[row of r], in a fixed order.
struct GroupSums {
  Dtype dtype = Dtype::kFloat32;
  const void* x = nullptr;         // [rows, width]
  const int32_t* rows = nullptr;   // sorted row to row of x, or null: itself
  Numbers scale{};                 // by slot, or absent
  const int32_t* order = nullptr;  // sorted row to slot
  Groups groups{};
  int width = 0;
  void* out = nullptr;  // [E, width]
  Dtype out_dtype = Dtype::kFloat32;
};

cudaError_t launch_combine(const Combine& args, cudaStream_t stream);
cudaError_t launch_tokens(const Tokens& args, cudaStream_t stream);
cudaError_t launch_weight_grads(const WeightGrads& args, cudaStream_t stream);
cudaError_t launch_group_sums(const GroupSums& args, cudaStream_t stream);

}  // namespace thrifty::moe::cuda
