// Truncation: each filter keeps the tokens whose logit is at least some theta of the row.
//
//   top_k        the k largest
//   top_p        those with less than p of the mass before them, among what top_k left; the first
//   min_p        p_t >= min_p * max p                                  (arXiv 2407.01082)
//   top_n_sigma  l_t >= max l - n * sigma, of the raw logits           (arXiv 2411.07641)
//   top_h        the largest while their entropy stays bounded         (arXiv 2509.02510)
//
// All look at the allowed tokens only, the mask comes first, and a token has to pass all of them.
// Equal logits pass together.
#pragma once

#include "sampling/batch.h"

namespace thrifty::sampling {

struct Filters {
  int64_t top_k = 0;      // 0: not wanted, here and below
  float top_p = 0;        // in (0, 1)
  float min_p = 0;        // in (0, 1]
  float top_n_sigma = 0;  // > 0
  float top_h = 0;        // in (0, 1]
  // top_h by the entropy of the renormalised prefix over that of the row, as in the paper's text;
  // else by the sum of -p log p over that of the 100 largest, as in the `transformers` library.
  bool renormalised = false;

  bool any() const { return top_k > 0 || top_p > 0 || min_p > 0 || top_n_sigma > 0 || top_h > 0; }
};

struct FilterArgs {
  Array top_k;                             // int64, one or one per row; 0 is none, here and below
  Array top_p, min_p, top_n_sigma, top_h;  // float32; of top_p, 1 is none
  std::string top_h_variant;               // "hf" or "renorm"
};

struct FilterBatch {
  Filters operator[](int64_t row) const;

  PerRow<int64_t> top_k;
  PerRow<float> top_p, min_p, top_n_sigma, top_h;
  bool renormalised = false;
};

FilterBatch check_filters(const std::string& op, const FilterArgs& args, int64_t rows,
                          bool on_device);

// The row's theta; -inf where nothing is cut, +inf where no token is allowed. `mass` as measured,
// `maxima` of its row's blocks.
float threshold(const Filters& filters, const RowMass& mass, const float* maxima);

}  // namespace thrifty::sampling
