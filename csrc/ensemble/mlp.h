// A whole batch-ensemble network at inference: layers, head and mean over members, block of rows by
// block of rows.
//
//   h_0 = x     h_l = act(s ((h_{l-1} r) W_l^T) + b)     y = h_L V_j + c_j     out = y, mean_j y or
//   mean_j softmax(y)
//
// TabM (arXiv 2410.24210): section 3.3 for the architecture, the mean over members for predictions.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "ensemble/linear.h"

namespace thrifty::ensemble {

enum class Reduce : int { kNone, kMean, kSoftmaxMean };

struct MlpArgs {
  Array x;
  std::vector<Array> weight, r, s, bias,
      packed;  // absent entries of r, s, bias: arrays without elements
  Array head_weight, head_bias;
  std::string_view activation = "relu", reduce = "none";
};

struct Mlp {
  std::vector<Layer> layers;  // the first one reads x; all have the same row map
  Array head_weight, head_bias;
  int64_t head_out = 0;
  Reduce reduce = Reduce::kNone;

  bool has_head() const { return bool(head_weight); }
  int64_t width() const { return has_head() ? head_out : layers.back().out; }
  std::vector<int64_t> out_shape() const;  // (B, k, width) or (B, width)
};

Mlp check_batch_ensemble_mlp(const MlpArgs& args);
void batch_ensemble_mlp(const Mlp& mlp, void* out, ParallelFor parallel);

}  // namespace thrifty::ensemble
