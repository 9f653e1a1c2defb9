// From a nondeterministic automaton over bytes (Thompson's construction of a regular expression) to
// the smallest deterministic one in which every state can still reach acceptance.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/array.h"

namespace thrifty::sampling {

// When an edge without a byte may be taken.
enum class Glue : int32_t { kAlways, kAtStart, kAtEnd };

// State 0 is the start. Edges are rows of int32 arrays.
struct Nfa {
  int64_t states = 0;
  int32_t accept = 0;
  const int32_t* bytes = nullptr;  // [edges, 4]: from, lowest byte, highest byte, to
  int64_t byte_edges = 0;
  const int32_t* glue = nullptr;   // [edges, 3]: from, to, Glue
  int64_t glue_edges = 0;
};

// State 0 is the start; -1 is the state from which nothing matches.
struct Dfa {
  std::vector<std::array<int32_t, 256>> next;
  std::vector<uint8_t> accepting;
};

Nfa check_nfa(int64_t states, int32_t accept, const Array& bytes, const Array& glue);

// Throws std::invalid_argument when it takes more than max_states states. A pattern that matches
// nothing gives no states at all.
Dfa determinise(const Nfa& nfa, int64_t max_states);

}  // namespace thrifty::sampling
