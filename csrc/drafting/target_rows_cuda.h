// The rows of a verification call as the row kernels take them.
#pragma once

#include "core/row_measure.h"
#include "drafting/verify.h"

namespace thrifty::drafting::cuda {

// `group`: rows that share the settings of one request.
inline thrifty::cuda::RowsArgs rows_of(const LogitsView& logits, const TargetSettings& settings,
                                       int64_t group) {
  thrifty::cuda::RowsArgs rows;
  rows.logits = logits.data;
  rows.dtype = logits.dtype;
  rows.rows = logits.batch * logits.rows;
  rows.vocab = logits.vocab;
  rows.stride = logits.row_stride;
  rows.request_stride = logits.batch_stride;
  rows.group = group;
  rows.temperature = settings.temperature;
  return rows;
}

inline thrifty::cuda::RowFilters filters_of(const TargetSettings& settings) {
  thrifty::cuda::RowFilters filters;
  filters.top_k = {settings.top_k, 1, 0};
  filters.top_p = {settings.top_p, 1, 1};
  filters.min_p = {settings.min_p, 1, 0};
  return filters;
}

struct Target;

// Fills target.laws.
cudaError_t launch_target_laws(const Target& target, cudaStream_t stream);

}  // namespace thrifty::drafting::cuda
