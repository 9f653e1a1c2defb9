// Products of one expert's weights with its tokens, on the block products of core/gemm.h.
//
//   C [n, tokens] = W_e [n, k] x^T [k, tokens]
//
// Weights are the left operand: gemm reads them where they lie, row-major (or, stored transposed,
// through gemm_t), and only where the storage format is not the operand's, or a size is no multiple
// of the tile, is a block copied to scratch. What is packed are the tokens, which are few beside
// the weights, and a product's tile is already in the order of the next product's panels. See also
// the decode kernel `few` of tiles.h, in which nothing is packed at all.
#pragma once

#include "core/array.h"
#include "core/gemm.h"
#include "core/scratch.h"
#include "moe/tiles.h"
#include "moe/waves.h"

namespace thrifty::moe {

// Weights of all experts: element (e, i, p) of [E, n, k], one of the inner strides is 1.
struct Weights {
  const std::byte* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t n = 0, k = 0;
  int64_t expert_stride = 0, n_stride = 0, k_stride = 1;  // in elements

  bool transposed() const { return k_stride != 1; }
  const std::byte* at(int64_t expert, int64_t row) const {
    return data + (expert * expert_stride + row * n_stride) * dtype_size(dtype);
  }
  Weights swapped() const { return {data, dtype, k, n, expert_stride, k_stride, n_stride}; }
};

Weights weights_of(const Array& array, bool transposed);  // [E, n, k], or [E, k, n]

// Rows of x (or of a gradient): those of sorted row r start at row index(r).
struct TokenRows {
  const std::byte* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t width = 0, row_stride = 0;  // elements
  const int32_t* order = nullptr;     // sorted row to slot; null: sorted row r is row r
  int64_t per_token = 1;              // slots of a token

  int64_t index(int64_t sorted) const {
    return order == nullptr ? sorted : order[sorted] / per_token;
  }
  const std::byte* row(int64_t sorted) const {
    return data + index(sorted) * row_stride * dtype_size(dtype);
  }
};

// The kernels for one storage format and what follows from them.
struct Kit {
  explicit Kit(Dtype dtype);
  const GemmKernels& gemm;
  const TileKernels& tiles;
  Dtype dtype;
  int64_t stored;  // bytes of an element
  int64_t unit;    // rows of weights that are given to a thread at once: a multiple of mr

  int64_t panel_bytes(int64_t k) const { return gemm.panel_bytes(k); }
  int64_t column_bytes(int64_t k) const { return panel_bytes(k) / gemm.nr; }
  int64_t units(int64_t n) const { return ceil_div(n, unit); }
  // Rows of a block: its operand and its sums stay in the second-level cache.
  int64_t block(int64_t k) const;
  // Few tokens are multiplied without panels, where operands are sums.
  bool few(int64_t tokens) const {
    return tokens <= kFew && gemm.operand_size == gemm.accumulator_size;
  }
  static constexpr int64_t kFew = 8;
};

// Panel `panel` of a wave: x^T [k, nr], from rows of x; or of a chunk with few tokens the rows
// themselves, as sums [tokens, width].
void pack_tokens(const Kit& kit, const Wave& wave, int64_t panel, const TokenRows& x, bool with_few,
                 std::byte* operands, Scratch& gathered);

// One per thread.
class Product {
 public:
  // max_rows, max_k, max_columns: of the products to come.
  Product(const Kit& kit, int64_t max_rows, int64_t max_k, int64_t max_columns);

  // c [rows, ld()] (+)= rows [first, first + rows) of W_e times panels [k, columns]
  void run(const Weights& w, int64_t expert, int64_t first, int64_t rows, const std::byte* panels,
           int64_t columns, std::byte* c, bool add = false);

  std::byte* c(int64_t row) { return c_.data() + row * ld_ * kit_.gemm.accumulator_size; }
  int64_t ld() const { return ld_; }

 private:
  const Kit& kit_;
  int64_t ld_;
  Scratch operand_, c_;
};

}  // namespace thrifty::moe
