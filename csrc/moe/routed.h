// What forward and backward of the layer share: the routed rows in order, and sums per token.
#pragma once

#include <vector>

#include "moe/mlp.h"

namespace thrifty::moe {

struct Routed {
  Routed(const Mlp& mlp, ParallelFor parallel);

  std::vector<int32_t> order, offsets;  // as moe_permute leaves them
  Scratch scale;                        // [S] sums: the weight of each sorted row

  int64_t rows() const { return offsets.back(); }  // those that have an expert
  // Columns of z [up rows, S] without an expert.
  void zero_tail(const Kit& kit, const Mlp& mlp, void* z) const;
};

// [rows, width] sums that start as 0 and end in an array: that array itself where it holds sums.
class RowSums {
 public:
  RowSums(const Kit& kit, int64_t rows, int64_t width, void* out, ParallelFor parallel);
  std::byte* data() { return sums_; }
  void finish(ParallelFor parallel);

 private:
  const Kit& kit_;
  int64_t rows_, width_;
  std::byte* out_;
  Scratch scratch_;
  std::byte* sums_;
};

void pack_wave(const Kit& kit, const Wave& wave, const TokenRows& x, bool with_few,
               std::byte* operands, ParallelFor parallel);

// Zeros in the rows [k, depth's multiple) of the panels of an operand [k, columns].
void zero_panel_rows(const Kit& kit, int64_t k, int64_t columns, std::byte* panels);

}  // namespace thrifty::moe
