// The checks of the n-gram table's arguments: whatever passes is safe to run on. Kernels of a
// device guard themselves against values.
#pragma once

#include <string>

#include "core/array.h"
#include "drafting/ngram_table.h"

namespace thrifty::drafting {

// What a table asks of its arguments. On a device values are not looked at.
struct NgramLimits {
  NgramLimits(const NgramTable& table)
      : n_max(table.n_max()), vocab_size(table.header().vocab_size) {}
  explicit NgramLimits(int64_t n_max) : n_max(n_max), on_device(true) {}
  int64_t n_max, vocab_size = 0;
  bool on_device = false;
};

// tails: int32 [N, L], L <= n_max; lens: int32 [N] or absent, each in [shortest, L].
Contexts check_contexts(const std::string& op, const NgramLimits& limits, const Array& tails,
                        const Array& lens, int shortest);

// ids: int32 [N, K], distinct, -1 behind them; probs: float32 [N, K], descending, sum <= 1.
Followers check_followers(const NgramLimits& limits, const Array& ids, const Array& probs,
                          int64_t rows);

// tokens: int32 [L]; contexts before tokens[start], tokens[start + 1], ...
Contexts check_tokens(const NgramTable& table, const Array& tokens, int64_t start);

void check_same_kind(const std::string& op, const NgramTable& table, const NgramTable& other);

}  // namespace thrifty::drafting
