// A deterministic automaton over bytes beside the bytes of a vocabulary: what a token does to a
// state is found by walking its bytes.
#pragma once

#include <cstdint>

#include "core/array.h"
#include "core/parallel.h"
#include "core/philox.h"  // THRIFTY_ANY_SIDE

namespace thrifty::sampling {

// Arrays as they come. Their contents are trusted by no one: a state or an offset out of range
// counts as a token that is not allowed.
struct ByteDfa {
  static constexpr int32_t kDead = -1;

  const int32_t* next = nullptr;       // [S, 256], negative: nothing matches any more
  const uint8_t* accepting = nullptr;  // [S]
  const int32_t* offsets = nullptr;    // [V + 1], where a token's bytes begin
  const uint8_t* bytes = nullptr;
  const int32_t* eos_ids = nullptr;    // [E]
  int64_t states = 0, vocabulary = 0, total_bytes = 0, eos_count = 0;

  THRIFTY_ANY_SIDE bool is_state(int32_t state) const { return state >= 0 && state < states; }
  THRIFTY_ANY_SIDE bool is_eos(int64_t token) const {
    for (int64_t i = 0; i < eos_count; ++i) {
      if (eos_ids[i] == token) return true;
    }
    return false;
  }

  // The state after a token, kDead where it is not allowed. An end token is allowed in accepting
  // states and leads nowhere else; tokens without bytes are not allowed.
  THRIFTY_ANY_SIDE int32_t step(int32_t state, int64_t token) const {
    if (!is_state(state) || token < 0 || token >= vocabulary) return kDead;
    if (is_eos(token)) return accepting[state] ? state : kDead;
    const int32_t begin = offsets[token], end = offsets[token + 1];
    if (begin < 0 || begin >= end || end > total_bytes) return kDead;
    for (int32_t at = begin; at < end; ++at) {
      state = next[int64_t(state) * 256 + bytes[at]];
      if (!is_state(state)) return kDead;
    }
    return state;
  }
};

struct ByteDfaArgs {
  Array next, accepting, offsets, bytes, eos_ids;
};

// Arrays are contiguous.
ByteDfa check_byte_dfa(const char* op, const ByteDfaArgs& args);

// mask: [rows, ceil(V / 32)], bit j % 32 of word j / 32 for token j.
void byte_dfa_bitmask(const ByteDfa& dfa, const int32_t* states, int64_t rows, int32_t* mask,
                      ParallelFor parallel);

}  // namespace thrifty::sampling
