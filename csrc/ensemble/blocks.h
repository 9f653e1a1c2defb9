// How the rows of a layer are cut into blocks, and what every block needs: vectors as accumulators,
// packed weights.
#pragma once

#include <algorithm>

#include "core/gemm.h"
#include "ensemble/linear.h"

namespace thrifty::ensemble {

// Rows of a block: 96 rows of 512 floats are 192 KB, so operands and sums stay in the second-level
// cache; it is a multiple of every tile height (6, 12, 32).
constexpr int64_t kBlockRows = 96;

// A block holds `tile` consecutive samples of `members` consecutive members (of one, where each
// brings its own weight). Blocks run tile by tile, or member by member.
struct Blocks {
  RowMap map;
  int64_t tile, members, tiles, groups;
  bool member_major;

  Blocks(const RowMap& map, int64_t tile_size, bool one_member, bool member_major)
      : map(map),
        tile(std::clamp<int64_t>(std::min(tile_size, map.max_samples()), 1, kBlockRows)),
        members(one_member ? 1 : std::min(map.k, kBlockRows / tile)),
        tiles(ceil_div(map.max_samples(), tile)),
        groups(ceil_div(map.k, members)),
        member_major(member_major) {}

  int64_t count() const { return tiles * groups; }
  int64_t max_rows() const { return tile * members; }
  int64_t tile_of(int64_t block) const { return member_major ? block % tiles : block / groups; }
  int64_t group_of(int64_t block) const { return member_major ? block / tiles : block % groups; }

  // Calls body(i, row, member, sample) for the rows of a block, i = 0, 1, ...; returns how many
  // there are.
  template <class Body>
  int64_t rows(int64_t block, const Body& body) const {
    const int64_t first = tile_of(block) * tile, group = group_of(block);
    int64_t i = 0;
    for (int64_t j = group * members; j < std::min(map.k, (group + 1) * members); ++j) {
      const int64_t last = std::min(first + tile, map.samples(j));
      for (int64_t q = first; q < last; ++q) body(i++, map.row(j, q), j, q);
    }
    return i;
  }
};

// Fewer blocks than this (small batches) are also cut by columns, so that several threads have
// work. The chunks are multiples of 64 columns, the period of the dropout mask, and depend on the
// shape only.
constexpr int64_t kEnoughTasks = 16;
int64_t column_chunk(int64_t blocks, int64_t columns);

// An optional argument as accumulators: row `member`, or the same row for all. Absent: a row of one
// value. An array that holds accumulators already is read where it is: copying r, s and b costs a
// tenth of a call of one sample.
class Vectors {
 public:
  Vectors(const Layer& layer, const Array& array, int64_t width, double absent);
  const std::byte* row(int64_t member) const { return rows_ + member * stride_; }

 private:
  Scratch data_;
  const std::byte* rows_;
  int64_t stride_;
};

// r, s, b, r' of a layer, and the row of ones that is the mask where nothing is dropped.
struct LayerVectors {
  explicit LayerVectors(const Layer& layer);

  // What the row of `member` is combined with from column `first` on; `mask` as dropout_mask left
  // it, or null.
  LayerRow row(const Layer& layer, int64_t member, int64_t first, const void* mask) const;

  Vectors r, s, bias, r_next, ones;
  int64_t element_size;
};

const GemmKernels& gemm_kernels(Dtype dtype);
const RowKernels& row_kernels(Dtype dtype);

// Scratch of `rows` rows of operands or sums, wide enough for the products' rules; operands start
// as zeros.
struct Buffer {
  Scratch data;
  int64_t width = 0;  // elements of a row
  int64_t row_bytes = 0;

  static Buffer operands(const GemmKernels& gemm, int64_t rows, int64_t columns);
  static Buffer sums(const GemmKernels& gemm, int64_t rows, int64_t columns);
  std::byte* row(int64_t i) { return data.data() + i * row_bytes; }
};

// All panels of the layer's weights for x W^T, or for dz W when `transposed`; packed in parallel.
Scratch pack_weights(const Layer& layer, bool transposed, ParallelFor parallel);

}  // namespace thrifty::ensemble
