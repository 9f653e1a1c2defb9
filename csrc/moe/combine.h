// A product's rows added to (or written as) rows of another array: the second half of a layer, of
// its backward, and grouped_mm.
//
//   sums[index(r)] += scale_r (W_e x_r + bias_e)
#pragma once

#include "moe/product.h"

namespace thrifty::moe {

struct Combine {
  const Kit& kit;
  const Wave& wave;
  Weights w;
  const std::byte* operands;  // panels of the products' right operand
  bool with_few;
  TokenRows rows;            // index(r); data is not read
  const Array& bias;         // [E, n] or absent
  const void* scale;         // sums by sorted row; null: 1
  std::byte* sums;           // [rows, n] sums that are added to; null: `out` is written instead
  std::byte* out = nullptr;  // [rows, n] of out_dtype, row r = sorted row
  Dtype out_dtype = Dtype::kFloat32;
  const std::byte* added = nullptr;  // [rows, n] in the storage format, added before the rounding
  int64_t added_stride = 0;          // elements
};
void run_combine(const Combine& task, ParallelFor parallel);

// Values of row `expert` of an [E, n] array as sums, from column `first` on; null when absent.
class BiasRow {
 public:
  BiasRow(const Kit& kit, const Array& bias, int64_t max_rows);
  const void* get(int64_t expert, int64_t first, int64_t rows);

 private:
  const Kit& kit_;
  const Array& bias_;
  Scratch sums_;
};

}  // namespace thrifty::moe
