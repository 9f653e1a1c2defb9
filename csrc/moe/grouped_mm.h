// Matrix products over groups of rows, with the meaning of torch.nn.functional.grouped_mm.
//
//   2d x 3d   out[r] = scale_r (a[index_r] b_e + bias_e) + added[r]     r in [offs[e - 1], offs[e])
//   2d x 2d   out[e] = a[:, offs[e - 1] : offs[e]] b[offs[e - 1] : offs[e]]
//
// Rows from the last offset on are zeros, as is the product of an empty group.
#pragma once

#include <vector>

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::moe {

struct GroupedMm {
  Array a, b, offs, a_idx, bias, row_scale, added;
  bool by_depth = false;  // 2d x 2d
  Dtype out_dtype = Dtype::kFloat32;
  int64_t rows = 0, k = 0, n = 0;  // 2d x 2d: rows of a, the grouped dimension, columns of b
  std::vector<int32_t> offsets;    // with the leading 0; empty where they lie on a device

  int64_t groups() const { return offs.shape[0]; }
  std::vector<int64_t> out_shape() const {
    return by_depth ? std::vector<int64_t>{groups(), rows, n} : std::vector<int64_t>{rows, n};
  }
};

struct GroupedMmArgs {
  Array a = {}, b = {}, offs = {}, a_idx = {}, bias = {}, row_scale = {}, added = {};
  bool float32_out = false;
  bool on_device = false;  // offs and a_idx cannot be read
};

GroupedMm check_grouped_mm(const GroupedMmArgs& args);
void grouped_mm(const GroupedMm& product, void* out, ParallelFor parallel);

}  // namespace thrifty::moe
