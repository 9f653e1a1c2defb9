#include "moe/combine.h"

#include "moe/elements.h"

namespace thrifty::moe {

BiasRow::BiasRow(const Kit& kit, const Array& bias, int64_t max_rows) : kit_(kit), bias_(bias) {
  if (bias) sums_ = Scratch(max_rows * kit.gemm.accumulator_size);
}

const void* BiasRow::get(int64_t expert, int64_t first, int64_t rows) {
  if (!bias_) return nullptr;
  to_wide(rows, bias_, expert * bias_.shape[1] + first, sums_.data());
  return sums_.data();
}

namespace {

class Worker {
 public:
  explicit Worker(const Combine& task)
      : task_(task),
        kit_(task.kit),
        block_(kit_.block(task.w.k)),
        product_(kit_, block_, task.w.k, kChunkRows + kit_.gemm.nr),
        bias_(kit_, task.bias, block_),
        rows_(kChunkRows * block_ * kit_.gemm.accumulator_size) {}

  void run(int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
    for (; chunk != end; ++chunk) {
      for (int64_t i = first * kit_.unit; i < std::min(task_.w.n, last * kit_.unit); i += block_) {
        run_block(*chunk, i, std::min({block_, task_.w.n - i, last * kit_.unit - i}));
      }
    }
  }

 private:
  void run_block(const Chunk& chunk, int64_t first, int64_t rows) {
    const int64_t size = kit_.gemm.accumulator_size;
    const std::byte* operands = task_.operands + chunk.column * kit_.column_bytes(task_.w.k);
    const void* bias = bias_.get(chunk.expert, first, rows);
    const Weights& w = task_.w;
    if (task_.with_few && kit_.few(chunk.rows)) {
      kit_.tiles.few(rows, chunk.rows, w.k, w.at(chunk.expert, first),
                     w.transposed() ? w.k_stride : w.n_stride, w.transposed(), operands, w.k,
                     product_.c(0), block_);
      for (int64_t j = 0; j < chunk.rows; ++j) {
        kit_.tiles.scale_row(rows, product_.c(0) + j * block_ * size, bias, scale(chunk.first + j),
                             rows_.data() + j * block_ * size);
      }
    } else {
      product_.run(w, chunk.expert, first, rows, operands, chunk.padded, product_.c(0));
      kit_.tiles.untile(rows, chunk.rows, product_.c(0), product_.ld(), bias, scale(chunk.first),
                        rows_.data(), block_);
    }
    for (int64_t j = 0; j < chunk.rows; ++j) {
      finish(chunk.first + j, first, rows, rows_.data() + j * block_ * size);
    }
  }

  const void* scale(int64_t sorted) const {
    const auto* scales = static_cast<const std::byte*>(task_.scale);
    return scales == nullptr ? nullptr : scales + sorted * kit_.gemm.accumulator_size;
  }

  void finish(int64_t sorted, int64_t first, int64_t n, std::byte* row) {
    const int64_t at = task_.rows.index(sorted) * task_.w.n + first;
    if (task_.sums != nullptr) {
      return kit_.tiles.add(n, row, task_.sums + at * kit_.gemm.accumulator_size);
    }
    if (task_.added != nullptr) {
      const int64_t from = task_.rows.index(sorted) * task_.added_stride + first;
      kit_.tiles.add_stored(n, task_.added + from * dtype_size(kit_.dtype), row);
    }
    from_wide(n, row, task_.out_dtype, task_.out, at);
  }

  const Combine& task_;
  const Kit& kit_;
  int64_t block_;
  Product product_;
  BiasRow bias_;
  Scratch rows_;
};

}  // namespace

void run_combine(const Combine& task, ParallelFor parallel) {
  const int64_t units = task.kit.units(task.w.n);
  const int64_t groups = task.sums != nullptr ? 1 : ceil_div(64, units);
  for_units<Worker>(
      parallel, task.wave, units, groups, [&] { return Worker(task); },
      [](Worker& worker, int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
        worker.run(first, last, chunk, end);
      });
}

}  // namespace thrifty::moe
