#include "moe/routed.h"

#include <cstring>

#include "moe/elements.h"

namespace thrifty::moe {

Routed::Routed(const Mlp& mlp, ParallelFor parallel)
    : order(size_t(mlp.slots())), offsets(size_t(mlp.experts + 1)) {
  moe_permute(mlp.permute, order.data(), offsets.data(), nullptr, parallel);
  const int64_t size = dtype_size(sum_dtype(mlp.dtype)), slots = mlp.slots();
  Scratch by_slot(slots * size);
  // Beside a 16-bit x the weights may be float32; their own widen serves both.
  to_wide(slots, mlp.weights, 0, by_slot.data());
  scale = Scratch((slots + 64) * size);  // read by whole vectors, up to a panel beyond
  for (int64_t r = 0; r < slots; ++r) {
    std::memcpy(scale.data() + r * size, by_slot.data() + order[size_t(r)] * size, size_t(size));
  }
}

void Routed::zero_tail(const Kit& kit, const Mlp& mlp, void* z) const {
  const int64_t slots = mlp.slots(), rest = slots - rows();
  for (int64_t i = 0; rest > 0 && i < mlp.up_rows(); ++i) {
    std::memset(static_cast<std::byte*>(z) + (i * slots + rows()) * kit.stored, 0,
                size_t(rest * kit.stored));
  }
}

RowSums::RowSums(const Kit& kit, int64_t rows, int64_t width, void* out, ParallelFor parallel)
    : kit_(kit), rows_(rows), width_(width), out_(static_cast<std::byte*>(out)) {
  const int64_t size = kit.gemm.accumulator_size;
  if (kit.stored != size) scratch_ = Scratch(rows * width * size);
  sums_ = kit.stored == size ? out_ : scratch_.data();
  for_ranges(rows * width * size > (1 << 20) ? parallel : serial, rows,
             [&](int64_t begin, int64_t end) {
               std::memset(sums_ + begin * width * size, 0, size_t((end - begin) * width * size));
             });
}

void RowSums::finish(ParallelFor parallel) {
  if (sums_ == out_) return;
  const int64_t from = width_ * kit_.gemm.accumulator_size, to = width_ * kit_.stored;
  for_ranges(rows_ * from > (1 << 20) ? parallel : serial, rows_, [&](int64_t begin, int64_t end) {
    kit_.tiles.narrow((end - begin) * width_, sums_ + begin * from, out_ + begin * to);
  });
}

void pack_wave(const Kit& kit, const Wave& wave, const TokenRows& x, bool with_few,
               std::byte* operands, ParallelFor parallel) {
  const int64_t panels = int64_t(wave.chunk_of_panel.size());
  const bool small = wave.columns * x.width * kit.stored < (1 << 20);
  for_ranges(small ? serial : parallel, panels, [&](int64_t begin, int64_t end) {
    Scratch gathered(kit.gemm.nr * x.width * kit.stored);
    for (int64_t p = begin; p < end; ++p) {
      pack_tokens(kit, wave, p, x, with_few, operands, gathered);
    }
  });
}

void zero_panel_rows(const Kit& kit, int64_t k, int64_t columns, std::byte* panels) {
  // Only tiles of AMX have a depth: rows 2p and 2p + 1 as pairs, 16 columns a tile, 32 rows a step.
  const int64_t depth = round_up(k, kit.gemm.depth), pair = 2 * kit.gemm.operand_size;
  for (int64_t panel = 0; panel < columns / kit.gemm.nr; ++panel) {
    std::byte* base = panels + panel * kit.panel_bytes(k);
    for (int64_t row = k; row < depth; ++row) {
      for (int64_t j = 0; j < kit.gemm.nr; ++j) {
        std::byte* at = base + ((row / 32 * 2 + j / 16) * 16 + row % 32 / 2) * 16 * pair +
                        j % 16 * pair + row % 2 * kit.gemm.operand_size;
        std::memset(at, 0, size_t(kit.gemm.operand_size));
      }
    }
  }
}

}  // namespace thrifty::moe
