// Batches of logits as the row kernels take them.
#pragma once

#include "core/row_measure.h"
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

}  // namespace thrifty::sampling::cuda
