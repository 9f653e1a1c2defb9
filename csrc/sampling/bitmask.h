// logits[t] = -inf where bit t % 32 of word t / 32 is clear, and beyond the mask. The layout is
// XGrammar's; so is `indices`. A row is written once, straight from the words: no unpacked mask.
#pragma once

#include <string>

#include "core/array.h"
#include "core/dispatch.h"
#include "core/parallel.h"

namespace thrifty::sampling {

struct BitmaskArgs {
  Array logits;   // [B, V] float32, bfloat16 or float16; rows contiguous; written
  Array bitmask;  // [M, W] int32, contiguous
  Array indices;  // [n] int32: row i of the logits takes mask i, for these i; or absent: M = B
  Array row_map;  // [M] int32: mask i goes to row row_map[i] of the logits; or absent
  int64_t vocab_size = -1;  // tokens that the mask describes; -1: as many as both hold
  bool on_device = false;
};

struct ApplyBitmask {
  Dtype dtype = Dtype::kFloat32;
  void* logits = nullptr;
  int64_t vocab = 0, stride = 0, covered = 0;  // tokens; the mask describes the first `covered`
  const uint32_t* mask = nullptr;
  int64_t mask_words = 0;
  int64_t count = 0;                    // pairs of a row and a mask
  const int32_t* rows = nullptr;        // [count], null: 0, 1, ...
  const int32_t* masks = nullptr;       // the same
  int64_t all_rows = 0, all_masks = 0;  // bounds of both, for indices that only a device can read
};

ApplyBitmask check_apply_token_bitmask(const BitmaskArgs& args);
void apply_token_bitmask(const ApplyBitmask& op, ParallelFor parallel);

// Of logits[n]: those without their bit in mask[(n + 31) / 32] become -inf.
struct BitmaskTable {
  void (*apply[3])(int64_t n, const uint32_t* mask, void* logits);  // by Dtype
};

}  // namespace thrifty::sampling

THRIFTY_ISA_TABLE(thrifty::sampling::BitmaskTable, bitmask_table)
