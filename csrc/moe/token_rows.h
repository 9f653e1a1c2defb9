// Tokens that a router takes out of their sequences, and puts back (Mixture-of-Recursions, arXiv
// 2507.10524, section 2.2.1). For each sequence b:
//
//   token_topk        index[b]: where the k largest of scores[b] are, in rising order (the order of
//                     the sequence keeps attention causal); weights = scores at index
//   gather_rows       out[b, j] = weights[b, j] x[b, index[b, j]]
//   scatter_add_rows  out[b, s] = x[b, s] + sum over j with index[b, j] = s of
//                     weights[b, j] src[b, j]
//
// An index outside the sequence gathers zeros and adds nothing. Sums are float32 (double for
// float64), in the order of j, rounded once. Threads share output rows.
#pragma once

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::moe {

struct TokenTopk {
  Array scores;  // [batch, length] contiguous
  int64_t batch = 0, length = 0, k = 0;
};

TokenTopk check_token_topk(const Array& scores, int64_t k);
// weights: [batch, k] in the scores' dtype; index: [batch, k]
void token_topk(const TokenTopk& topk, void* weights, int64_t* index, ParallelFor parallel);

struct TokenRowsOp {
  Array x, index, src, weights;  // contiguous; src absent: gather; weights may be absent
  int64_t batch = 0, length = 0, chosen = 0, width = 0;
};

TokenRowsOp check_gather_rows(const Array& x, const Array& index, const Array& weights);
void gather_rows(const TokenRowsOp& op, void* out, ParallelFor parallel);  // [batch, chosen, width]

TokenRowsOp check_scatter_add_rows(const Array& x, const Array& index, const Array& src,
                                   const Array& weights);
void scatter_add_rows(const TokenRowsOp& op, void* out, ParallelFor parallel);  // shape of x

}  // namespace thrifty::moe
