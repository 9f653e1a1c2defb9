// The elementwise half of an expert: what happens to a tile of a matrix product before it becomes
// the next product's operand, and the products of few rows.
//
// A tile is [rows, tokens]: one row per neuron, one column per routed token, because W x^T takes
// weights as they lie in memory. phi makes one row of A from two rows of Z = W1 x + b1 (gated:
// gate g and up u) or from one (g alone):
//
//   forward    a = phi(g, u)
//   backward   ds += da a      dg = s da dphi/dg      du = s da dphi/du      with da = W2^T dO
//
// The formulas of the backward pass are those of SonicMoE (arXiv 2512.14080, 3): the gradient of
// the routing weight is <da, a>, so the experts' outputs are never kept.
#pragma once

#include <cstdint>

#include "core/dispatch.h"

namespace thrifty::moe {

// phi(g, u) = f(g) u, or f(g) without an up half, where f is the name; g and u are clamped first: g
// <= limit, |u| <= limit (infinity: not at all). kOai: (u + 1) g sigmoid(alpha g) (gpt-oss).
enum class Gate : int { kSilu, kGelu, kGeluTanh, kRelu, kRelu2, kOai };

struct Phi {
  Gate gate;
  bool gated;
  double alpha, limit;
};

// Row i of the gate is `gate + i step`, of the up half `up + i step`; ungated: gate alone.
struct UpTile {
  int64_t rows, tokens;
  const void *gate, *up;  // sums, step elements between rows
  int64_t step;
  const void *gate_bias, *up_bias;  // sums, bias_step elements between neurons; null: none
  int64_t bias_step;
  void *z_gate, *z_up;  // Z in the storage format, z_step elements between rows; null: not kept
  int64_t z_step;
  void* panels;                // A as operand: panels of [depth of the product, nr]
  int64_t first, panel_bytes;  // of row 0 in A; from a panel to the next
};

struct UpGradTile {
  int64_t rows, tokens, padded;  // columns from `tokens` to `padded` become zeros
  const void* da;                // sums [rows, ld]
  int64_t ld;
  const void *z_gate, *z_up;  // as UpTile left them
  int64_t z_step;
  const void* weight;  // sums [padded]: s of each token
  void* panels;        // dZ as operand, null: not wanted; rows of Z `first_gate + i first_step`
  int64_t first_gate, first_up, first_step, panel_bytes;
  void *dz_gate, *dz_up;  // dZ by rows, operands, dz_step elements between rows; null: not wanted
  int64_t dz_step;
  void* as;  // s A by rows, operands [rows, as_ld]; null: not wanted
  int64_t as_ld;
  void* ds;                   // sums [tokens], added to; null: not wanted
  void *bias_gate, *bias_up;  // sums over tokens of dZ, bias_step apart, added to; null
  int64_t bias_step;
};

struct TileKernels {
  void (*up)(const Phi& phi, const UpTile& tile);
  void (*up_grad)(const Phi& phi, const UpGradTile& tile);
  // out[j, i] = scale[j] (c[i, j] + bias[i]): a product [rows, tokens] back to one row per token;
  // sums all; scale and bias may be null
  void (*untile)(int64_t rows, int64_t tokens, const void* c, int64_t ld, const void* bias,
                 const void* scale, void* out, int64_t out_ld);
  // c[j, i] = <w_i, x_j> for a few tokens j, k summed as gemm does; x: sums [tokens, x_ld]; the
  // weights in the storage format: w_i is `w + i w_step`, contiguous, or, transposed, a column of
  // rows w_step apart
  void (*few)(int64_t rows, int64_t tokens, int64_t k, const void* w, int64_t w_step,
              bool transposed, const void* x, int64_t x_ld, void* c, int64_t c_ld);
  // a[n] = phi(gate[n] + gate_bias[n], up[n] + up_bias[n]): one token; sums all
  void (*up_row)(const Phi& phi, int64_t n, const void* gate, const void* up, const void* gate_bias,
                 const void* up_bias, void* a);
  // out[n] = scale (x[n] + bias[n]); sums all, bias may be null
  void (*scale_row)(int64_t n, const void* x, const void* bias, const void* scale, void* out);
  // sum[n] += from[n], the second in the storage format
  void (*add)(int64_t n, const void* from, void* sum);
  void (*add_stored)(int64_t n, const void* from, void* sum);
  void (*widen)(int64_t n, const void* stored, void* sums);
  void (*narrow)(int64_t n, const void* sums, void* stored);
  void (*to_operand)(int64_t n, const void* stored, void* operand);
};

struct TileTable {
  TileKernels storage[4];  // by Dtype: float32, bfloat16, float16, float64
};

}  // namespace thrifty::moe

namespace thrifty {
using MoeTileTable = moe::TileTable;
}
THRIFTY_ISA_TABLE(MoeTileTable, moe_tiles)
