// Forward: three parallel regions per wave of chunks (waves.h): pack the tokens, up projection with
// activation, down projection with the weighted sum.
#include <cstring>

#include "moe/combine.h"
#include "moe/elements.h"
#include "moe/mlp.h"
#include "moe/routed.h"

namespace thrifty::moe {
namespace {

class UpWorker {
  // Neurons at a time for few tokens: whole blocks of the decode kernel on every instruction set,
  // of which nothing but the last slice leaves a part.
  static constexpr int64_t kFewBlock = 96;

 public:
  explicit UpWorker(const UpTask& task)
      : task_(task),
        mlp_(task.mlp),
        kit_(task.kit),
        block_(std::max(kit_.unit, kit_.block(mlp_.hidden) / 2 / kit_.unit * kit_.unit)),
        product_(kit_, 2 * block_, mlp_.hidden, kChunkRows + kit_.gemm.nr),
        bias_(kit_, mlp_.b1, 2 * std::max(block_, kFewBlock)),
        bias_up_(kit_, mlp_.b1, 2 * std::max(block_, kFewBlock)),
        few_(task.with_few ? 4 * kFewBlock * kit_.gemm.accumulator_size : 0),
        few_z_(task.with_few ? 2 * kFewBlock * Kit::kFew * kit_.gemm.accumulator_size : 0) {}

  void run(int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
    for (; chunk != end; ++chunk) {
      const bool few = task_.with_few && kit_.few(chunk->rows);
      const int64_t stop = std::min(mlp_.inner, last * kit_.unit), step = few ? kFewBlock : block_;
      for (int64_t i = first * kit_.unit; i < stop; i += step) {
        const int64_t rows = std::min(step, stop - i);
        few ? run_few(*chunk, i, rows) : run_block(*chunk, i, rows);
      }
    }
  }

 private:
  // Rows of W1 that gate and up of some neurons take: one run, or two.
  struct Source {
    int64_t gate, up, rows;
    bool together;  // interleaved: one product of 2 rows, gate and up by turns
  };
  Source source(int64_t first, int64_t rows) const {
    const bool together = mlp_.phi.gated && mlp_.interleaved;
    return {mlp_.gate_row(first), mlp_.up_row(first), together ? 2 * rows : rows, together};
  }

  void run_block(const Chunk& chunk, int64_t first, int64_t rows) {
    const Source from = source(first, rows);
    const std::byte* x = task_.operands + chunk.column * kit_.column_bytes(mlp_.hidden);
    const auto product = [&](int64_t row, std::byte* c) {
      product_.run(mlp_.w1, chunk.expert, row, from.rows, x, chunk.padded, c);
    };
    std::byte *gate = product_.c(0), *up = product_.c(from.together ? 1 : block_);
    product(from.gate, gate);
    if (mlp_.phi.gated && !from.together) product(from.up, up);
    UpTile tile{};
    tile.rows = rows, tile.tokens = chunk.rows;
    tile.gate = gate, tile.up = up;
    tile.step = product_.ld() * mlp_.row_step();
    set_bias(chunk, from, tile);
    if (task_.z != nullptr) {
      const int64_t column = task_.z_by_column ? chunk.column : chunk.first;
      tile.z_gate = task_.z + (from.gate * task_.z_step + column) * kit_.stored;
      tile.z_up = task_.z + (from.up * task_.z_step + column) * kit_.stored;
      tile.z_step = task_.z_step * mlp_.row_step();
    }
    tile.panels = task_.inner + chunk.column * kit_.column_bytes(mlp_.inner);
    tile.first = first, tile.panel_bytes = kit_.panel_bytes(mlp_.inner);
    kit_.tiles.up(mlp_.phi, tile);
    zero_rest(chunk, tile);
  }

  void set_bias(const Chunk& chunk, const Source& from, UpTile& tile) {
    tile.gate_bias = bias_.get(chunk.expert, from.gate, from.rows);
    tile.bias_step = mlp_.row_step();
    if (tile.gate_bias == nullptr || !mlp_.phi.gated) return;
    tile.up_bias = from.together
                       ? static_cast<const std::byte*>(tile.gate_bias) + kit_.gemm.accumulator_size
                       : bias_up_.get(chunk.expert, from.up, from.rows);
  }

  // The operand's depth is a multiple of the tile's: zeros between the last neuron and it.
  void zero_rest(const Chunk& chunk, const UpTile& tile) {
    if (tile.first + tile.rows < mlp_.inner || mlp_.inner % kit_.gemm.depth == 0) return;
    zero_panel_rows(kit_, mlp_.inner, chunk.padded, static_cast<std::byte*>(tile.panels));
  }

  // Tokens one by one: gate and up of a token as rows, A into its row of the inner operand.
  void run_few(const Chunk& chunk, int64_t first, int64_t rows) {
    const Source from = source(first, rows);
    const int64_t size = kit_.gemm.accumulator_size, ld = 2 * kFewBlock;
    const std::byte* x = task_.operands + chunk.column * kit_.column_bytes(mlp_.hidden);
    const auto product = [&](int64_t row, std::byte* c) {
      const Weights& w = mlp_.w1;
      kit_.tiles.few(from.rows, chunk.rows, w.k, w.at(chunk.expert, row),
                     w.transposed() ? w.k_stride : w.n_stride, w.transposed(), x, w.k, c, ld);
    };
    std::byte* gates = few_z_.data();
    product(from.gate, gates);
    if (mlp_.phi.gated && !from.together) product(from.up, gates + kFewBlock * size);
    const void* gate_bias = bias_.get(chunk.expert, from.gate, from.rows);
    const void* up_bias =
        mlp_.phi.gated && !from.together ? bias_up_.get(chunk.expert, from.up, from.rows) : nullptr;
    std::byte* biases = few_.data() + 2 * kFewBlock * size;
    if (from.together && gate_bias != nullptr) {
      split(gate_bias, rows, biases);
      gate_bias = biases, up_bias = biases + kFewBlock * size;
    }
    std::byte* a = task_.inner + chunk.column * kit_.column_bytes(mlp_.inner);
    for (int64_t j = 0; j < chunk.rows; ++j) {
      const std::byte* gate = gates + j * ld * size;
      if (from.together) {
        split(gate, rows, few_.data());
        gate = few_.data();
      }
      kit_.tiles.up_row(mlp_.phi, rows, gate, gate + kFewBlock * size, gate_bias, up_bias,
                        a + (j * mlp_.inner + first) * size);
    }
  }

  // g0 u0 g1 u1 ... to all g, then (from kFewBlock on) all u.
  void split(const void* from, int64_t rows, std::byte* to) const {
    const int64_t size = kit_.gemm.accumulator_size;
    const auto* pairs = static_cast<const std::byte*>(from);
    for (int64_t i = 0; i < rows; ++i) {
      std::memcpy(to + i * size, pairs + 2 * i * size, size_t(size));
      std::memcpy(to + (kFewBlock + i) * size, pairs + (2 * i + 1) * size, size_t(size));
    }
  }

  const UpTask& task_;
  const Mlp& mlp_;
  const Kit& kit_;
  int64_t block_;
  Product product_;
  BiasRow bias_, bias_up_;
  Scratch few_, few_z_;
};

}  // namespace

void run_up(const UpTask& task, ParallelFor parallel) {
  const int64_t units = task.kit.units(task.mlp.inner);
  for_units<UpWorker>(
      parallel, task.wave, units, ceil_div(64, units), [&] { return UpWorker(task); },
      [](UpWorker& worker, int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
        worker.run(first, last, chunk, end);
      });
}

void moe_mlp_fwd(const Mlp& mlp, void* out, void* z, ParallelFor parallel) {
  const Kit kit(mlp.dtype);
  const Routed routed(mlp, parallel);
  const int64_t x_bytes = kit.column_bytes(mlp.hidden), a_bytes = kit.column_bytes(mlp.inner);
  const auto waves = cut_waves(routed.offsets.data(), mlp.experts, kit.gemm.nr, x_bytes + a_bytes);
  Scratch operands(widest(waves) * x_bytes), inner(widest(waves) * a_bytes);
  RowSums sums(kit, mlp.tokens, mlp.hidden, out, parallel);
  const TokenRows x = mlp.rows_of(mlp.x.data, mlp.x.strides[0], routed.order.data());
  const bool with_few = z == nullptr;
  const Array none;
  if (z != nullptr) routed.zero_tail(kit, mlp, z);
  for (const Wave& wave : waves) {
    pack_wave(kit, wave, x, with_few, operands.data(), parallel);
    run_up({mlp, kit, wave, operands.data(), inner.data(), with_few, static_cast<std::byte*>(z),
            mlp.slots(), false},
           parallel);
    run_combine({.kit = kit,
                 .wave = wave,
                 .w = mlp.w2,
                 .operands = inner.data(),
                 .with_few = with_few,
                 .rows = x,
                 .bias = mlp.b2,
                 .scale = routed.scale.data(),
                 .sums = sums.data()},
                parallel);
  }
  sums.finish(parallel);
}

}  // namespace thrifty::moe
