// Which queries meet which keys: exact leaves and approximate nodes of one packed batch of
// sequences.
//
// Without `causal` a sequence is one node: all its queries against all its keys. With `causal` the
// positions are cut into leaves of `leaf`; a query attends exactly to its own leaf up to itself,
// and for each set bit l of its leaf's number through the node of level l that ends where the bits
// below begin: keys [2j S, (2j + 1) S), queries [(2j + 1) S, (2j + 2) S), S = leaf 2^l
// (HyperAttention, arXiv 2310.05869, algorithm 4). The cuts lie at fixed positions and not at
// halves of the length, so that a row does not change when the sequence grows.
//
// Query i of a sequence with nq queries and nk keys stands at position i + nk - nq when causal.
#pragma once

#include <cstdint>
#include <vector>

namespace thrifty::attention {

struct Node {
  int64_t q_begin, q_end;  // rows of the packed queries, and of the packed keys
  int64_t k_begin, k_end;
  int64_t first_key;               // k_begin inside its sequence: what random draws are numbered by
  int64_t probe_begin, probe_end;  // queries whose mean picks the kept keys: none later than a key
  int64_t q_at, k_at;              // where its part of `q_window` and `order` begins
  int64_t queries() const { return q_end - q_begin; }
  int64_t keys() const { return k_end - k_begin; }
};

struct Leaf {
  int64_t q_begin, q_end, k_begin, k_end;
  int64_t diagonal;  // row i sees keys [k_begin, min(k_end, i + diagonal + 1))
};

struct Layout {
  std::vector<Node> nodes;  // by sequence, level, position
  std::vector<Leaf> leaves;
  int64_t q_total = 0, k_total = 0;  // lengths of q_window and order
};

// Sequence s has queries [cu_q[s], cu_q[s + 1]) and keys [cu_k[s], cu_k[s + 1]).
Layout make_layout(const std::vector<int64_t>& cu_q, const std::vector<int64_t>& cu_k, bool causal,
                   int64_t leaf);

}  // namespace thrifty::attention
