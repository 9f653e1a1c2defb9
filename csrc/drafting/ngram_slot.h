// The slot of an n-gram table and its limits, for all that read it: core, instruction sets, CUDA.
//
// A slot in words of 32 bits: version, count, age, m, ids[k], probs[k]; m <= k pairs, probabilities
// descending, zeros behind them. The version is odd while the slot is written.
#pragma once

#include <cstdint>

namespace thrifty::drafting {

constexpr int kMaxK = 14, kMaxOrder = 8, kBucket = 8;
constexpr int kSlotPairs = 3, kSlotIds = 4;  // words
// Pairs below this are dropped: they would never be drawn, and running means would end as
// subnormals.
constexpr float kSmallestProb = 1e-12f;

}  // namespace thrifty::drafting
