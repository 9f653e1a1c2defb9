#include "moe/weight_grad.h"

#include <cstring>

#include "moe/elements.h"

namespace thrifty::moe {

FeaturePanels::FeaturePanels(const Kit& kit, int64_t columns, int64_t width)
    : bytes_(round_up(width, kit.gemm.nr) * kit.gemm.operand_size), data_(columns * bytes_) {}

void FeaturePanels::pack(const Kit& kit, const Wave& wave, const TokenRows& rows,
                         ParallelFor parallel) {
  for_ranges(parallel, int64_t(wave.chunks.size()), [&](int64_t begin, int64_t end) {
    Scratch gathered(kChunkRows * rows.width * kit.stored);
    const int64_t bytes = rows.width * kit.stored;
    for (int64_t c = begin; c < end; ++c) {
      const Chunk& chunk = wave.chunks[size_t(c)];
      for (int64_t j = 0; j < chunk.rows; ++j) {
        std::memcpy(gathered.data() + j * bytes, rows.row(chunk.first + j), size_t(bytes));
      }
      kit.gemm.pack(chunk.rows, rows.width, {gathered.data(), rows.width, 1},
                    data_.data() + chunk.column * bytes_);
    }
  });
}

namespace {

class Worker {
 public:
  explicit Worker(const WeightGrad& task)
      : task_(task),
        kit_(task.kit),
        ld_(WeightGrad::carry_ld(kit_, task.width)),
        block_(kit_.block(task.width)),
        product_(kit_, block_, task.view != nullptr ? kChunkRows + kit_.gemm.nr : 0, task.width),
        turned_(task.across ? block_ * ld_ * kit_.gemm.accumulator_size : 0) {}

  void run(int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
    while (chunk != end) {
      const Chunk* next = chunk;
      while (next != end && next->expert == chunk->expert) ++next;
      const int64_t stop = std::min(task_.rows, last * kit_.unit);
      for (int64_t i = first * kit_.unit; i < stop; i += block_) {
        run_block(chunk, next, i, std::min(block_, stop - i));
      }
      chunk = next;
    }
  }

 private:
  void run_block(const Chunk* chunk, const Chunk* end, int64_t first, int64_t rows) {
    const GemmKernels& gemm = kit_.gemm;
    const int64_t bytes = rows * ld_ * gemm.accumulator_size;
    std::byte* carry = task_.carry + first * ld_ * gemm.accumulator_size;
    const int64_t expert = chunk->expert;
    bool add = !chunk->opens;
    if (add) std::memcpy(product_.c(0), carry, size_t(bytes));
    for (; chunk != end; ++chunk, add = true) {
      const std::byte* right = task_.right.of(*chunk);
      if (task_.view != nullptr) {
        Weights view = *task_.view;
        view.data += chunk->first * view.k_stride * kit_.stored, view.k = chunk->rows;
        product_.run(view, 0, first, rows, right, task_.width, product_.c(0), add);
        continue;
      }
      const std::byte* left =
          task_.left + (chunk->column * task_.rows + first * chunk->padded) * gemm.operand_size;
      gemm.gemm(rows, task_.width, chunk->rows, left, chunk->padded, right, product_.c(0), ld_,
                add);
    }
    if (!(end - 1)->closes) {
      std::memcpy(carry, product_.c(0), size_t(bytes));
    } else {
      task_.across ? store_across(expert, first, rows) : store(expert, first, rows);
    }
  }

  void store(int64_t expert, int64_t first, int64_t rows) {
    for (int64_t i = 0; i < rows; ++i) {
      from_wide(task_.width, product_.c(i), task_.out_dtype, task_.out,
                (expert * task_.rows + first + i) * task_.width);
    }
  }

  void store_across(int64_t expert, int64_t first, int64_t rows) {
    kit_.tiles.untile(rows, task_.width, product_.c(0), ld_, nullptr, nullptr, turned_.data(),
                      block_);
    for (int64_t h = 0; h < task_.width; ++h) {
      from_wide(rows, turned_.data() + h * block_ * kit_.gemm.accumulator_size, task_.out_dtype,
                task_.out, (expert * task_.width + h) * task_.rows + first);
    }
  }

  const WeightGrad& task_;
  const Kit& kit_;
  int64_t ld_, block_;
  Product product_;
  Scratch turned_;
};

}  // namespace

void run_weight_grad(const WeightGrad& task, ParallelFor parallel) {
  for_units<Worker>(
      parallel, task.wave, task.kit.units(task.rows), 1, [&] { return Worker(task); },
      [](Worker& worker, int64_t first, int64_t last, const Chunk* chunk, const Chunk* end) {
        worker.run(first, last, chunk, end);
      });
}

void zero_idle_experts(const int32_t* offsets, int64_t experts, int64_t bytes, void* out) {
  for (int64_t e = 0; out != nullptr && e < experts; ++e) {
    if (offsets[e] == offsets[e + 1]) {
      std::memset(static_cast<std::byte*>(out) + e * bytes, 0, size_t(bytes));
    }
  }
}

}  // namespace thrifty::moe
