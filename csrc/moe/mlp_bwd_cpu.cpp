// Backward, wave by wave, in the steps of the file's parallel regions:
//
//   1  pack dO (and what the wanted gradients need of x); Z again where it was not kept
//   2  dA' = W2^T dO, and from it dZ, w A and the weights' gradient <dA', A>
//   3  dx += W1^T dZ
//   4  dW1 = dZ x^T and dW2 = dO (w A)^T, summed over the tokens of an expert
//
// A step that no wanted gradient needs does not run: frozen experts cost nothing.
#include <cstring>

#include "moe/combine.h"
#include "moe/elements.h"
#include "moe/mlp.h"
#include "moe/routed.h"
#include "moe/weight_grad.h"

namespace thrifty::moe {
namespace {

// Scratch of one wave and what is summed over all of them.
struct Backward {
  Backward(const Mlp& mlp, const void* grad, const void* z, const MlpGrads& grads,
           ParallelFor parallel)
      : mlp(mlp),
        kit(mlp.dtype),
        grads(grads),
        routed(mlp, parallel),
        x(mlp.rows_of(mlp.x.data, mlp.x.strides[0], routed.order.data())),
        d_out(mlp.rows_of(grad, mlp.hidden, routed.order.data())),
        kept_z(static_cast<const std::byte*>(z)) {
    const int64_t op = kit.gemm.operand_size, sum = kit.gemm.accumulator_size;
    const int64_t hidden = kit.column_bytes(mlp.hidden), up = kit.column_bytes(mlp.up_rows());
    const int64_t features = round_up(mlp.hidden, kit.gemm.nr) * op;
    waves = cut_waves(routed.offsets.data(), mlp.experts, kit.gemm.nr,
                      2 * (hidden + features) + 2 * up + 2 * mlp.inner * op);
    columns = widest(waves);
    const bool again = kept_z == nullptr;
    d_out_panels = Scratch(columns * hidden);
    if (again) {
      x_panels = Scratch(columns * hidden);
      a_panels = Scratch(columns * kit.column_bytes(mlp.inner));
      z_again = Scratch(columns * mlp.up_rows() * kit.stored);
    }
    if (grads.x != nullptr) dz_panels = Scratch(columns * up);
    const int64_t beyond = kit.gemm.mr * (kChunkRows + kit.gemm.nr);  // gemm reads whole tiles
    if (grads.w1 != nullptr) dz_rows = Scratch((columns * mlp.up_rows() + beyond) * op);
    if (grads.w2 != nullptr) as_rows = Scratch((columns * mlp.inner + beyond) * op);
    if (grads.w1 != nullptr) x_features = FeaturePanels(kit, columns, mlp.hidden);
    if (grads.w2 != nullptr) d_out_features = FeaturePanels(kit, columns, mlp.hidden);
    const int64_t ld = WeightGrad::carry_ld(kit, mlp.hidden);
    if (grads.w1 != nullptr) carry1 = Scratch(round_up(mlp.up_rows(), kit.unit) * ld * sum);
    if (grads.w2 != nullptr) carry2 = Scratch(round_up(mlp.inner, kit.unit) * ld * sum);
    if (grads.weights != nullptr) {
      ds = zeros(mlp.slots() + 64);
      ds_units = Scratch(kit.units(mlp.inner) * columns * sum);
    }
    if (grads.b1 != nullptr) db1 = zeros(mlp.experts * mlp.up_rows());
    if (grads.b2 != nullptr) db2 = zeros(mlp.experts * mlp.hidden);
  }

  Scratch zeros(int64_t n) const {
    Scratch scratch(n * kit.gemm.accumulator_size);
    std::memset(scratch.data(), 0, size_t(n * kit.gemm.accumulator_size));
    return scratch;
  }

  const Mlp& mlp;
  const Kit kit;
  const MlpGrads& grads;
  const Routed routed;
  const TokenRows x, d_out;
  const std::byte* kept_z;
  std::vector<Wave> waves;
  int64_t columns = 0;
  Scratch d_out_panels, x_panels, a_panels, z_again, dz_panels, dz_rows, as_rows;
  FeaturePanels x_features, d_out_features;
  Scratch carry1, carry2, ds, ds_units, db1, db2;
};

// Step 2 for a slice of neurons.
class UpGradWorker {
 public:
  UpGradWorker(Backward& all, const Wave& wave)
      : all_(all),
        mlp_(all.mlp),
        kit_(all.kit),
        columns_(wave.columns),
        w2_(mlp_.w2.swapped()),
        block_(kit_.block(mlp_.hidden)),
        product_(kit_, block_, mlp_.hidden, kChunkRows + kit_.gemm.nr) {}

  void run(int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
    for (; chunk != end; ++chunk) {
      const int64_t stop = std::min(mlp_.inner, last * kit_.unit);
      for (int64_t i = first * kit_.unit; i < stop; i += block_) {
        const int64_t rows = std::min(block_, stop - i);
        product_.run(w2_, chunk->expert, i, rows,
                     all_.d_out_panels.data() + chunk->column * kit_.column_bytes(mlp_.hidden),
                     chunk->padded, product_.c(0));
        for (int64_t u = 0; u < rows; u += kit_.unit) {  // <dA', A> is summed by units
          run_unit(*chunk, i + u, std::min(kit_.unit, rows - u), product_.c(u));
        }
      }
    }
  }

 private:
  void run_unit(const Chunk& chunk, int64_t first, int64_t rows, const std::byte* da) {
    const int64_t op = kit_.gemm.operand_size, sum = kit_.gemm.accumulator_size;
    const int64_t gate = mlp_.gate_row(first), up = mlp_.up_row(first), step = mlp_.row_step();
    UpGradTile tile{};
    tile.rows = rows, tile.tokens = chunk.rows, tile.padded = chunk.padded;
    tile.da = da, tile.ld = product_.ld();
    set_z(chunk, gate, up, tile);
    tile.weight = all_.routed.scale.data() + chunk.first * sum;
    if (std::byte* panels = all_.dz_panels.data()) {
      tile.panels = panels + chunk.column * kit_.column_bytes(mlp_.up_rows());
      tile.first_gate = gate, tile.first_up = up, tile.first_step = step;
      tile.panel_bytes = kit_.panel_bytes(mlp_.up_rows());
    }
    if (std::byte* rows_of = all_.dz_rows.data()) {
      rows_of += chunk.column * mlp_.up_rows() * op;
      tile.dz_gate = rows_of + gate * chunk.padded * op;
      tile.dz_up = rows_of + up * chunk.padded * op;
      tile.dz_step = chunk.padded * step;
    }
    if (std::byte* rows_of = all_.as_rows.data()) {
      tile.as = rows_of + (chunk.column * mlp_.inner + first * chunk.padded) * op;
      tile.as_ld = chunk.padded;
    }
    if (std::byte* units = all_.ds_units.data()) {
      tile.ds = units + (first / kit_.unit * columns_ + chunk.column) * sum;
      std::memset(tile.ds, 0, size_t(chunk.padded * sum));
    }
    if (std::byte* bias = all_.db1.data()) {
      bias += chunk.expert * mlp_.up_rows() * sum;
      tile.bias_gate = bias + gate * sum, tile.bias_up = bias + up * sum, tile.bias_step = step;
    }
    kit_.tiles.up_grad(mlp_.phi, tile);
  }

  void set_z(const Chunk& chunk, int64_t gate, int64_t up, UpGradTile& tile) {
    const bool kept = all_.kept_z != nullptr;
    const std::byte* z = kept ? all_.kept_z : all_.z_again.data();
    const int64_t step = kept ? mlp_.slots() : columns_;
    const int64_t column = kept ? chunk.first : chunk.column;
    tile.z_gate = z + (gate * step + column) * kit_.stored;
    tile.z_up = z + (up * step + column) * kit_.stored;
    tile.z_step = step * mlp_.row_step();
  }

  Backward& all_;
  const Mlp& mlp_;
  const Kit& kit_;
  int64_t columns_;
  const Weights w2_;
  int64_t block_;
  Product product_;
};

void pack(Backward& all, const Wave& wave, ParallelFor parallel) {
  pack_wave(all.kit, wave, all.d_out, false, all.d_out_panels.data(), parallel);
  if (all.grads.w1 != nullptr) all.x_features.pack(all.kit, wave, all.x, parallel);
  if (all.grads.w2 != nullptr) all.d_out_features.pack(all.kit, wave, all.d_out, parallel);
  if (all.kept_z != nullptr) return;
  pack_wave(all.kit, wave, all.x, false, all.x_panels.data(), parallel);
  run_up({all.mlp, all.kit, wave, all.x_panels.data(), all.a_panels.data(), false,
          all.z_again.data(), wave.columns, true},
         parallel);
}

// ds of a wave's rows: the sums of the units in order, and <dO, b2>.
template <class T>
void weight_sums(Backward& all, const Wave& wave, ParallelFor parallel) {
  const int64_t units = all.kit.units(all.mlp.inner), hidden = all.mlp.hidden;
  const T* parts = all.ds_units.as<T>();
  T* ds = all.ds.as<T>();
  for_ranges(parallel, int64_t(wave.chunks.size()), [&](int64_t begin, int64_t end) {
    std::vector<T> row(size_t(hidden), T(0));
    BiasRow bias(all.kit, all.mlp.b2, hidden);
    for (int64_t c = begin; c < end; ++c) {
      const Chunk& chunk = wave.chunks[size_t(c)];
      const T* b2 = static_cast<const T*>(bias.get(chunk.expert, 0, hidden));
      for (int64_t j = 0; j < chunk.rows; ++j) {
        double sum = 0;
        for (int64_t u = 0; u < units; ++u) sum += parts[u * wave.columns + chunk.column + j];
        if (b2 != nullptr) {
          all.kit.tiles.widen(hidden, all.d_out.row(chunk.first + j), row.data());
          for (int64_t h = 0; h < hidden; ++h) sum += double(row[size_t(h)]) * double(b2[h]);
        }
        ds[chunk.first + j] = T(sum);
      }
    }
  });
}

// db2_e += s_r dO_r, by slices of columns.
void bias_sums(Backward& all, const Wave& wave, ParallelFor parallel) {
  constexpr int64_t kSlice = 64;
  const int64_t sum = all.kit.gemm.accumulator_size, hidden = all.mlp.hidden;
  for_ranges(parallel, ceil_div(hidden, kSlice), [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kSlice, n = std::min(hidden, end * kSlice) - first;
    Scratch row(n * sum), scaled(n * sum);
    for (const Chunk& chunk : wave.chunks) {
      std::byte* to = all.db2.data() + (chunk.expert * hidden + first) * sum;
      for (int64_t r = chunk.first; r < chunk.first + chunk.rows; ++r) {
        all.kit.tiles.widen(n, all.d_out.row(r) + first * all.kit.stored, row.data());
        all.kit.tiles.scale_row(n, row.data(), nullptr, all.routed.scale.data() + r * sum,
                                scaled.data());
        all.kit.tiles.add(n, scaled.data(), to);
      }
    }
  });
}

void weight_grads(Backward& all, const Wave& wave, ParallelFor parallel) {
  const Mlp& mlp = all.mlp;
  if (all.grads.w1 != nullptr) {
    run_weight_grad(
        {all.kit, wave, mlp.up_rows(), mlp.hidden, all.dz_rows.data(), nullptr, all.x_features,
         all.carry1.data(), static_cast<std::byte*>(all.grads.w1), mlp.transposed, mlp.dtype},
        parallel);
  }
  if (all.grads.w2 != nullptr) {
    run_weight_grad(
        {all.kit, wave, mlp.inner, mlp.hidden, all.as_rows.data(), nullptr, all.d_out_features,
         all.carry2.data(), static_cast<std::byte*>(all.grads.w2), !mlp.transposed, mlp.dtype},
        parallel);
  }
}

// The sums over all waves in the dtypes of their arguments.
void finish(Backward& all) {
  const Mlp& mlp = all.mlp;
  const int64_t size = all.kit.gemm.accumulator_size;
  const auto bias = [&](const Array& like, const Scratch& sums, void* out) {
    if (out != nullptr) from_wide(like.numel(), sums.data(), like.dtype, out, 0);
  };
  bias(mlp.b1, all.db1, all.grads.b1);
  bias(mlp.b2, all.db2, all.grads.b2);
  if (all.grads.weights != nullptr) {
    Scratch by_slot(mlp.slots() * size);
    for (int64_t r = 0; r < mlp.slots(); ++r) {
      std::memcpy(by_slot.data() + all.routed.order[size_t(r)] * size, all.ds.data() + r * size,
                  size_t(size));
    }
    from_wide(mlp.slots(), by_slot.data(), mlp.weights.dtype, all.grads.weights, 0);
  }
  const int32_t* offsets = all.routed.offsets.data();
  zero_idle_experts(offsets, mlp.experts, mlp.up_rows() * mlp.hidden * all.kit.stored,
                    all.grads.w1);
  zero_idle_experts(offsets, mlp.experts, mlp.inner * mlp.hidden * all.kit.stored, all.grads.w2);
}

}  // namespace

void moe_mlp_bwd(const Mlp& mlp, const void* grad, const void* z, const MlpGrads& grads,
                 ParallelFor parallel) {
  Backward all(mlp, grad, z, grads, parallel);
  const bool wants_x = grads.x != nullptr;
  RowSums dx(all.kit, wants_x ? mlp.tokens : 0, mlp.hidden, grads.x, parallel);
  const Array none;
  const bool upwards = wants_x || grads.w1 != nullptr || grads.b1 != nullptr ||
                       grads.w2 != nullptr || grads.weights != nullptr;
  for (const Wave& wave : all.waves) {
    if (grads.b2 != nullptr) bias_sums(all, wave, parallel);
    if (!upwards) continue;
    pack(all, wave, parallel);
    for_units<UpGradWorker>(
        parallel, wave, all.kit.units(mlp.inner), 1, [&] { return UpGradWorker(all, wave); },
        [](UpGradWorker& worker, int64_t first, int64_t last, const Chunk* chunk,
           const Chunk* end) { worker.run(first, last, chunk, end); });
    if (grads.weights != nullptr) {
      mlp.dtype == Dtype::kFloat64 ? weight_sums<double>(all, wave, parallel)
                                   : weight_sums<float>(all, wave, parallel);
    }
    if (wants_x) {
      if (mlp.up_rows() % all.kit.gemm.depth != 0) {
        zero_panel_rows(all.kit, mlp.up_rows(), wave.columns, all.dz_panels.data());
      }
      run_combine({.kit = all.kit,
                   .wave = wave,
                   .w = mlp.w1.swapped(),
                   .operands = all.dz_panels.data(),
                   .with_few = false,
                   .rows = all.x,
                   .bias = none,
                   .scale = nullptr,
                   .sums = dx.data()},
                  parallel);
    }
    weight_grads(all, wave, parallel);
  }
  if (wants_x) dx.finish(parallel);
  finish(all);
}

}  // namespace thrifty::moe
