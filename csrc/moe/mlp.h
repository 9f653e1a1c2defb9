// The experts' layer: up projection, activation, down projection and the weighted sum over the
// chosen experts, in one call.
//
//   y_t = sum_k w[t, k] (W2_e phi(W1_e x_t + b1_e) + b2_e)      e = ids[t, k]
//
// Backward keeps x, the routing and Z = W1 x + b1 (or recomputes it), never the experts' outputs:
// dA' = W2^T dO gives the weights' gradient as <dA', A> and, times w, the activation's (SonicMoE,
// arXiv 2512.14080, 3). A token's sum over experts runs in the order of the experts.
#pragma once

#include <string_view>

#include "moe/permute.h"
#include "moe/product.h"

namespace thrifty::moe {

struct Mlp {
  Dtype dtype = Dtype::kFloat32;
  int64_t tokens = 0, hidden = 0, inner = 0, experts = 0, top_k = 0;
  Array x;         // [T, H], rows contiguous
  Weights w1, w2;  // [E, up rows, H] and [E, H, I]
  Array b1, b2;    // [E, up rows], [E, H]; may be absent
  Array weights;   // [T, K] contiguous
  Permute permute;
  Phi phi{};
  bool transposed = false;   // w1 and w2 came as [E, H, up rows] and [E, I, H]
  bool interleaved = false;  // rows of W1: g0 u0 g1 u1 ... instead of all g, then all u

  int64_t slots() const { return tokens * top_k; }
  int64_t up_rows() const { return phi.gated ? 2 * inner : inner; }
  // The rows of W1 for neuron i: gate and up.
  int64_t gate_row(int64_t i) const { return phi.gated && interleaved ? 2 * i : i; }
  int64_t up_row(int64_t i) const { return interleaved ? 2 * i + 1 : inner + i; }
  int64_t row_step() const { return phi.gated && interleaved ? 2 : 1; }
  TokenRows rows_of(const void* data, int64_t row_stride, const int32_t* order) const {
    return {static_cast<const std::byte*>(data), dtype, hidden, row_stride, order, top_k};
  }
};

struct MlpArgs {
  Array x = {}, w1 = {}, w2 = {}, ids = {}, weights = {}, b1 = {}, b2 = {}, expert_map = {};
  std::string_view activation = "swiglu";
  bool transposed = false, interleaved = false;
  double alpha = 1.702, limit = 7;
};

Mlp check_moe_mlp(const MlpArgs& args);

// out: [T, H]; z: [up rows, S] by sorted row, or null: not kept.
void moe_mlp_fwd(const Mlp& mlp, void* out, void* z, ParallelFor parallel);

// Null: not wanted. Shapes, dtypes and, for w1 and w2, strides of the arguments.
struct MlpGrads {
  void *x = nullptr, *w1 = nullptr, *w2 = nullptr, *weights = nullptr, *b1 = nullptr, *b2 = nullptr;
};

// grad: [T, H] contiguous; z as forward left it, or null: computed again.
void moe_mlp_bwd(const Mlp& mlp, const void* grad, const void* z, const MlpGrads& grads,
                 ParallelFor parallel);

// The first half of forward for one wave of backward: Z of the wave's columns in z [up rows,
// z_step].
struct UpTask {
  const Mlp& mlp;
  const Kit& kit;
  const Wave& wave;
  const std::byte* operands;  // panels of x
  std::byte* inner;           // panels of A
  bool with_few;
  std::byte* z;  // null: not kept
  int64_t z_step;
  bool z_by_column;  // column of the wave instead of sorted row
};
void run_up(const UpTask& task, ParallelFor parallel);

}  // namespace thrifty::moe
