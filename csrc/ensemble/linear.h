// Batch-ensemble and packed-ensemble linear layers: k members that share one weight, or have one
// each.
//
//   z = (x r_j) W^T     y = s_j z + b_j     out = dropout(act(y)) r'_j        j = the member of the
//   row
//
// TabM (Gorishniy et al., arXiv 2410.24210, section 3) and BatchEnsemble (Wen et al., arXiv
// 2002.06715, section 3). The next layer's r is applied here (r'), so only a network's first layer
// reads x and r. The packed layer of section 3.2 is the same with a weight per member, (k, in,
// out), and without r, s and r'.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/array.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "ensemble/rows.h"

namespace thrifty::ensemble {

// How rows map to members. Grouped rows: member j owns rows ((q / group) k + j) group + q % group,
// q = 0, 1, ...
struct RowMap {
  int64_t rows = 0, k = 1, group = 1;

  int64_t samples(int64_t member) const;  // rows that belong to `member`
  int64_t max_samples() const { return samples(0); }
  int64_t row(int64_t member, int64_t sample) const {
    return ((sample / group) * k + member) * group + sample % group;
  }
};

// Arguments of a layer, checked. Pointers are to contiguous data in the storage format `dtype`
// unless said otherwise.
struct Layer {
  Dtype dtype = Dtype::kFloat32;
  RowMap map;
  int64_t in = 0, out = 0;
  bool packed = false;    // weight (k, in, out), one per member, instead of (out, in)
  bool shared_x = false;  // x is (B, in): row b serves all members
  const void* x = nullptr;
  int64_t x_outer = 0,
          x_inner = 0;  // row rho of x is at x + (rho / k) x_outer + (rho % k) x_inner, in elements
  const void* weight = nullptr;         // [out, in] or [k, in, out]
  const void* packed_weight = nullptr;  // pack_weight's panels instead of `weight`, forward only
  Array r, s, bias, r_next;             // [k, in], [k, out], [out] or [k, out], [k, out]
  Activation activation = Activation::kNone;
  Dropout dropout;  // without its seed and offset where `seed` lies on a device
  Array seed;

  int64_t rows() const { return map.rows; }
  const std::byte* x_row(int64_t row) const {
    const int64_t at = row / map.k * x_outer + row % map.k * x_inner;
    return static_cast<const std::byte*>(x) + at * dtype_size(dtype);
  }
};

// Arguments as they come, for the checks. `op` begins every message.
struct LayerArgs {
  std::string op;
  Array x = {}, weight = {}, r = {}, s = {}, bias = {}, r_next = {}, seed = {};
  std::string_view activation = "none";
  double dropout = 0;
  int64_t k = 0;           // 0: from the arguments
  int64_t group = 0;       // 0: x is (B, in) or (B, k, in)
  bool on_device = false;  // no data may be read here
};

Layer check_batch_ensemble_linear(const LayerArgs& args);
Layer check_ensemble_linear(const LayerArgs& args);
Activation parse_activation(const std::string& op, std::string_view name);

// (B, k, out), or (rows, out) for grouped rows.
std::vector<int64_t> out_shape(const Layer& layer, bool grouped);

// out and z: [rows, out]; z may be null.
void linear_fwd(const Layer& layer, void* out, void* z, ParallelFor parallel);

// Gradients that were asked for; null otherwise. Shapes and dtypes of the arguments, contiguous.
struct LayerGrads {
  void *x = nullptr, *weight = nullptr, *r = nullptr, *s = nullptr, *bias = nullptr,
       *r_next = nullptr;
};

// grad: [rows, out]; z: as forward saved it, or null where backward_needs_z says no.
bool backward_needs_z(const Layer& layer, bool needs_s, bool needs_r_next);
void linear_bwd(const Layer& layer, const void* grad, const void* z, const LayerGrads& grads,
                ParallelFor parallel);

// Panels of weight (out, in) for linear_fwd and mlp; their layout belongs to the instruction set
// that runs.
int64_t packed_weight_bytes(Dtype dtype, int64_t in, int64_t out);
void pack_weight(Dtype dtype, int64_t in, int64_t out, const void* weight, void* panels,
                 ParallelFor parallel);

}  // namespace thrifty::ensemble
