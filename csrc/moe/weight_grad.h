// Gradients of weights: sums over the tokens of an expert of outer products.
//
//   C_e [rows, width] = left_e [rows, tokens] right_e [tokens, width]
//
// left lies by rows, as operands or as a strided view of stored elements; right is packed with its
// features as columns. An expert's chunks follow each other, so a block of C stays in scratch until
// the last of them; where an expert reaches into the next wave, its sums wait in `carry`.
#pragma once

#include "moe/product.h"

namespace thrifty::moe {

// Features as columns: panels [tokens of a chunk, width] of every chunk of a wave.
class FeaturePanels {
 public:
  FeaturePanels() = default;
  FeaturePanels(const Kit& kit, int64_t columns, int64_t width);
  void pack(const Kit& kit, const Wave& wave, const TokenRows& rows, ParallelFor parallel);
  const std::byte* of(const Chunk& chunk) const { return data_.data() + chunk.column * bytes_; }

 private:
  int64_t bytes_ = 0;  // of a column
  Scratch data_;
};

struct WeightGrad {
  const Kit& kit;
  const Wave& wave;
  int64_t rows, width;
  const std::byte* left;  // chunk: left + column * rows operands, [rows, padded]; or null:
  const Weights* view;    // n = rows, k = sorted row
  const FeaturePanels& right;
  std::byte* carry;  // [round_up(rows, mr), carry_ld(kit, width)] sums
  std::byte* out;    // [E, rows, width], or [E, width, rows] when `across`, in the storage format
  bool across;
  Dtype out_dtype;

  static int64_t carry_ld(const Kit& kit, int64_t width) {
    return round_up(width, kit.gemm.nr) + 64 / kit.gemm.accumulator_size;
  }
};
void run_weight_grad(const WeightGrad& task, ParallelFor parallel);

// Writes zeros for the experts without rows.
void zero_idle_experts(const int32_t* offsets, int64_t experts, int64_t bytes, void* out);

}  // namespace thrifty::moe
