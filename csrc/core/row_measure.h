// What every op on rows of logits does first: the masses of all blocks, and of what filters leave.
#pragma once

#include <type_traits>

#include "core/cuda/status.h"
#include "core/row_threshold.h"

namespace thrifty::cuda {

// Cuts scratch memory into arrays, each on 16 bytes. Without memory it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : begin_(static_cast<char*>(memory)) {}

  template <class T>
  void take(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(begin_) + uintptr_t(bytes_));
    bytes_ += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* begin_;
  int64_t bytes_ = 0;
};

// [rows, blocks] each, theta [rows].
struct RowMeasures {
  BlockMass *all = nullptr, *kept = nullptr;
  BlockMoments* moments = nullptr;
  float *max = nullptr, *theta = nullptr;

  RowMeasures(Carver& carver, int64_t rows, int64_t blocks) {
    carver.take(all, rows * blocks);
    carver.take(kept, rows * blocks);
    carver.take(moments, rows * blocks);
    carver.take(max, rows * blocks);
    carver.take(theta, rows);
  }
};

// Fills all, kept and max; where filtered, theta, too, which becomes the rows' bound.
inline LaunchStatus measure_rows(RowsArgs& rows, const RowFilters& filters, bool filtered,
                                 const RowMeasures& measures, cudaStream_t stream) {
  const RowSumsOut out{measures.all, measures.kept, measures.max,
                       filtered ? measures.moments : nullptr};
  cudaError_t error = launch_row_sums(rows, nullptr, out, stream);
  if (error != cudaSuccess) return {error, "row_sums"};
  if (!filtered) return {};
  error = launch_row_threshold(
      {rows, measures.kept, measures.max, measures.moments, filters, measures.theta}, stream);
  if (error != cudaSuccess) return {error, "row_threshold"};
  rows.at_least = {measures.theta, 1, kNoLogit};
  error = launch_row_sums(rows, measures.max, {nullptr, measures.kept, nullptr, nullptr}, stream);
  return {error, "row_sums"};
}

// Warps of a block of threads where each has a row.
constexpr int kRowWarps = 4;
inline unsigned row_grid(int64_t rows) { return unsigned((rows + kRowWarps - 1) / kRowWarps); }

}  // namespace thrifty::cuda
