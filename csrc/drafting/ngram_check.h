// The checks of the n-gram table's arguments: whatever passes is safe to run on.
#pragma once

#include <string>

#include "core/array.h"
#include "drafting/ngram_table.h"

namespace thrifty::drafting {

// tails: int32 [N, L], L <= n_max; lens: int32 [N] or absent, each in [shortest, L].
Contexts check_contexts(const std::string& op, const NgramTable& table, const Array& tails,
                        const Array& lens, int shortest);

// ids: int32 [N, K], distinct, -1 behind them; probs: float32 [N, K], descending, sum <= 1.
Followers check_followers(const NgramTable& table, const Array& ids, const Array& probs,
                          int64_t rows);

// tokens: int32 [L]; contexts before tokens[start], tokens[start + 1], ...
Contexts check_tokens(const NgramTable& table, const Array& tokens, int64_t start);

void check_same_kind(const std::string& op, const NgramTable& table, const NgramTable& other);

}  // namespace thrifty::drafting
