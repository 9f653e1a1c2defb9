// The second kernel where filters are wanted: the bound theta of each row, so that a token passes
// all of them when its logit is at least theta. The rules are those of sampling/filter.h:
//
//   top_k        the k largest
//   top_p        those with less than p of the mass before them, among what top_k left
//   min_p        p_t >= min_p max p
//   top_n_sigma  l_t >= max l - n sigma
//   top_h        the largest while their entropy stays bounded
//
// One block of threads per row. Ranks and masses are found by histogram: 2048 bins of equal width
// over the row's range, then the tokens of the one bin in which the answer lies are compared with
// each other, or binned again while they are too many. Masses are integers, 2^-45 of the whole for
// 152k tokens, so that the order of the atomic additions does not matter.
#pragma once

#include "core/row_sums.h"

namespace thrifty::cuda {

// As sampling::FilterBatch, by request: 0 is none, of top_p 1.
struct RowFilters {
  PerRequest<int64_t> top_k;
  PerRequest<float> top_p{nullptr, 0, 1.0f};
  PerRequest<float> min_p, top_n_sigma, top_h;
  bool renormalised = false;  // the variant of top_h

  bool any() const {
    return top_k.data || top_p.data || min_p.data || top_n_sigma.data || top_h.data;
  }
};

// What row_sums wrote, [rows, blocks] each. `rows.without` is not looked at. theta: [rows]; -inf
// where nothing is cut, never above the row's largest logit.
struct RowThresholdArgs {
  RowsArgs rows;
  const BlockMass* kept = nullptr;
  const float* max = nullptr;
  const BlockMoments* moments = nullptr;
  RowFilters filters;
  float* theta = nullptr;
};

cudaError_t launch_row_threshold(const RowThresholdArgs& args, cudaStream_t stream);

}  // namespace thrifty::cuda
