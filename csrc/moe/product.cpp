#include "moe/product.h"

#include <cstring>

#include "moe/elements.h"

namespace thrifty::moe {

Weights weights_of(const Array& a, bool transposed) {
  const int n = transposed ? 2 : 1, k = transposed ? 1 : 2;
  Weights w{static_cast<const std::byte*>(a.data),
            a.dtype,
            a.shape[size_t(n)],
            a.shape[size_t(k)],
            a.strides[0],
            a.strides[size_t(n)],
            a.strides[size_t(k)]};
  if (w.k == 1 && w.n_stride != 1) w.k_stride = 1;  // a stride that is never used
  return w;
}

Kit::Kit(Dtype dtype)
    : gemm(gemm_table().storage[int(dtype)]),
      tiles(tile_kernels(dtype)),
      dtype(dtype),
      stored(dtype_size(dtype)),
      unit(round_up(12, gemm.mr)) {}

int64_t Kit::block(int64_t k) const {
  constexpr int64_t kBytes = 192 << 10, kMostRows = 96;
  const int64_t rows = std::min(kMostRows, kBytes / std::max<int64_t>(1, k * gemm.operand_size));
  return std::max(unit, rows / unit * unit);
}

void pack_tokens(const Kit& kit, const Wave& wave, int64_t panel, const TokenRows& x, bool with_few,
                 std::byte* operands, Scratch& gathered) {
  const Chunk& chunk = wave.chunks[size_t(wave.chunk_of_panel[size_t(panel)])];
  const int64_t nr = kit.gemm.nr, inside = panel * nr - chunk.column;
  const int64_t rows = std::min(nr, chunk.rows - inside), row_bytes = x.width * kit.stored;
  std::byte* to = operands + panel * kit.panel_bytes(x.width);
  if (with_few && kit.few(chunk.rows)) {
    std::byte* base = operands + chunk.column * kit.column_bytes(x.width);
    for (int64_t j = inside; j < inside + rows; ++j) {
      kit.tiles.widen(x.width, x.row(chunk.first + j),
                      base + j * x.width * kit.gemm.accumulator_size);
    }
    return;
  }
  const std::byte* from = x.row(chunk.first + inside);
  int64_t row_stride = x.row_stride;
  if (x.order != nullptr) {
    for (int64_t j = 0; j < rows; ++j) {
      std::memcpy(gathered.data() + j * row_bytes, x.row(chunk.first + inside + j),
                  size_t(row_bytes));
    }
    from = gathered.data(), row_stride = x.width;
  }
  kit.gemm.pack(x.width, rows, {from, 1, row_stride}, to);
}

Product::Product(const Kit& kit, int64_t max_rows, int64_t max_k, int64_t max_columns)
    : kit_(kit), ld_(round_up(max_columns, kit.gemm.nr) + 64 / kit.gemm.accumulator_size) {
  const int64_t rows = round_up(max_rows, kit.gemm.mr), line = 64 / kit.gemm.operand_size;
  const int64_t k = round_up(max_k, std::max(line, kit.gemm.depth)) + line;
  operand_ = Scratch(rows * k * kit.gemm.operand_size);
  c_ = Scratch(rows * ld_ * kit.gemm.accumulator_size);
}

void Product::run(const Weights& w, int64_t expert, int64_t first, int64_t rows,
                  const std::byte* panels, int64_t columns, std::byte* c, bool add) {
  const GemmKernels& gemm = kit_.gemm;
  const bool transposed = w.transposed();
  const std::byte* from = w.at(expert, first);
  const int64_t step = transposed ? w.k_stride : w.n_stride;
  const bool direct = kit_.stored == gemm.operand_size && rows % gemm.mr == 0 &&
                      w.k % gemm.depth == 0 && (transposed ? w.n_stride : w.k_stride) == 1;
  const auto multiply = transposed ? gemm.gemm_t : gemm.gemm;
  if (direct) return multiply(rows, columns, w.k, from, step, panels, c, ld_, add);

  const int64_t length = transposed ? rows : w.k, lines = transposed ? w.k : rows;
  const int64_t line = 64 / gemm.operand_size;
  const int64_t lda =
      transposed ? round_up(rows, gemm.mr) : round_up(w.k, std::max(line, gemm.depth)) + line;
  const int64_t lda_bytes = lda * gemm.operand_size;
  for (int64_t i = 0; i < lines; ++i) {
    std::byte* to = operand_.data() + i * lda_bytes;
    kit_.tiles.to_operand(length, from + i * step * kit_.stored, to);
    const int64_t used = length * gemm.operand_size;
    std::memset(to + used, 0, size_t(lda_bytes - used));
  }
  if (transposed) {  // finite rows up to a multiple of the depth
    const int64_t rest = round_up(w.k, gemm.depth) - w.k;
    std::memset(operand_.data() + w.k * lda_bytes, 0, size_t(rest * lda_bytes));
  }
  multiply(rows, columns, w.k, operand_.data(), lda, panels, c, ld_, add);
}

}  // namespace thrifty::moe
