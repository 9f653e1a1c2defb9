// One attention call as its kernels see it, whichever op it came through.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/tile.h"
#include "core/gemm.h"
#include "core/parallel.h"

namespace thrifty::attention {

// Rows of one head; columns are contiguous.
struct Rows {
  std::byte* data = nullptr;
  int64_t stride = 0;  // elements

  Rows from(int64_t row, int64_t element_size) const {
    return {data + row * stride * element_size, stride};
  }
};

// [batch, heads, n, columns] with any strides but the last.
struct Heads {
  std::byte* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;  // elements

  Rows head(int64_t batch, int64_t head, int64_t element_size) const {
    return {data + (batch * batch_stride + head * head_stride) * element_size, row_stride};
  }
};

// The kernels of a storage format with the sizes that go with them.
struct Kit {
  const GemmKernels& gemm;
  const TileKernels& tile;
  int64_t size, operand, sum;  // bytes of an element

  explicit Kit(Dtype dtype)
      : gemm(gemm_table().storage[int(dtype)]),
        tile(attention_tiles().storage[int(dtype)]),
        size(dtype_size(dtype)),
        operand(gemm.operand_size),
        sum(gemm.accumulator_size) {}
  bool sums_are_operands() const { return operand == sum; }
};

struct Problem {
  Dtype dtype;
  int64_t batch, q_heads, k_heads, nq, nk, d, dv;
  Heads q, k, v;
  double scale;

  int64_t group() const { return q_heads / k_heads; }
  int64_t heads() const { return batch * q_heads; }
  Kit kit() const { return Kit(dtype); }
  // Waking threads costs more than this many rows.
  ParallelFor worth(ParallelFor parallel) const { return nq + nk <= 512 ? serial : parallel; }
  // Of query head `index`, counted over the batch.
  Rows q_head(int64_t index) const {
    return q.head(index / q_heads, index % q_heads, dtype_size(dtype));
  }
  Rows key_head(const Heads& keys, int64_t index) const {
    return keys.head(index / q_heads, index % q_heads / group(), dtype_size(dtype));
  }
  int64_t key_head_index(int64_t index) const {
    return index / q_heads * k_heads + index % q_heads / group();
  }
};

}  // namespace thrifty::attention
