// The order of routed rows: by expert, inside an expert by slot (a slot is token K + choice).
//
// A stable counting sort (core/bucket_sort.h) of the ids after `expert_map`, which may rename
// experts, let several share one (merged experts) and drop some (-1: pruned, or on another rank).
// With a capacity C, each expert keeps C slots, those of the highest priority, ties to the lower
// slot. Slots of no expert, foreign and dropped ones, follow behind offsets[E].
#pragma once

#include <cstdint>
#include <vector>

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::moe {

struct Permute {
  Array ids;       // [T, K] int32 or int64, contiguous
  Array map;       // int32 or int64 [experts before the map]; may be absent
  Array priority;  // [T, K] floating; may be absent: the lower slot first
  int64_t experts = 0;
  int64_t capacity = 0;  // 0: unlimited

  int64_t slots() const { return ids.numel(); }
};

Permute check_moe_permute(const Array& ids, int64_t num_experts, const Array& expert_map,
                          int64_t capacity, const Array& priority);

// slot [S]: sorted row to slot; offsets [E + 1]; inverse [S]: slot to sorted row, or null.
void moe_permute(const Permute& permute, int32_t* slot, int32_t* offsets, int32_t* inverse,
                 ParallelFor parallel);

}  // namespace thrifty::moe
