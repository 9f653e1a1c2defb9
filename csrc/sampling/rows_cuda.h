// Batches of logits as the row kernels take them, and scratch memory cut into arrays.
#pragma once

#include <type_traits>

#include "core/row_sums.h"
#include "core/row_threshold.h"
#include "sampling/filter.h"

namespace thrifty::sampling::cuda {

template <class T>
thrifty::cuda::PerRequest<T> per_request(const PerRow<T>& rows) {
  return {rows.data, rows.stride, rows.fallback};
}

inline thrifty::cuda::RowsArgs rows_of(const Batch& batch) {
  thrifty::cuda::RowsArgs rows;
  rows.logits = batch.logits;
  rows.dtype = batch.dtype;
  rows.rows = batch.rows;
  rows.vocab = batch.vocab;
  rows.stride = batch.stride;
  rows.inv_temperature = per_request(batch.inv_temperature);
  rows.mask = batch.mask;
  rows.masks = batch.masks;
  rows.mask_words = batch.mask_words;
  rows.mask_rows = batch.mask_rows;
  return rows;
}

inline thrifty::cuda::RowFilters filters_of(const FilterBatch& filters) {
  thrifty::cuda::RowFilters rows;
  rows.top_k = per_request(filters.top_k);
  rows.top_p = per_request(filters.top_p);
  rows.min_p = per_request(filters.min_p);
  rows.top_n_sigma = per_request(filters.top_n_sigma);
  rows.top_h = per_request(filters.top_h);
  rows.renormalised = filters.renormalised;
  return rows;
}

// Arrays one after the other, on 16 bytes each. Without memory it only counts.
class Carver {
 public:
  explicit Carver(void* memory) : begin_(static_cast<char*>(memory)) {}

  template <class T>
  void take(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(begin_ + bytes_);
    bytes_ += (count * int64_t(sizeof(T)) + 15) / 16 * 16;
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* begin_;
  int64_t bytes_ = 0;
};

// Warps of a block where each has a row.
constexpr int kRowWarps = 4;
inline unsigned row_grid(int64_t rows) { return unsigned((rows + kRowWarps - 1) / kRowWarps); }

}  // namespace thrifty::sampling::cuda
