// row_stats on the CPU: rows in parallel, or the blocks of one row where there are few.
#include <algorithm>

#include "drafting/target_row.h"
#include "sampling/batch.h"

namespace thrifty::drafting {

void row_stats(const RowStats& call, const RowStatsOut& out, ParallelFor parallel) {
  const auto one = [&](TargetRow& row, int64_t i, ParallelFor blocks) {
    int32_t* ids = out.topk_ids + i * call.k;
    float* probs = out.topk_probs + i * call.k;
    const bool good = row.open(call.logits, 0, i, call.settings, i, blocks);
    out.status[i] = good ? kGood : kBadLogits;
    out.draw[i] = -1;
    out.lse[i] = 0;
    std::fill(ids, ids + call.k, -1);
    std::fill(probs, probs + call.k, 0.0f);
    if (!good) return;
    out.lse[i] = float(row.log_mass());
    row.top(call.k, ids, probs);
    if (call.settings.seed == nullptr) return;
    const int64_t offset = call.settings.offset != nullptr ? call.settings.offset[i] : 0;
    const int32_t* exclude = call.exclude != nullptr ? call.exclude + i * call.excluded : nullptr;
    out.draw[i] = row.draw_outside(exclude, call.excluded, call.settings.seed[i], offset);
  };
  constexpr int64_t kFew = 4;  // rows: then all threads take one row's blocks
  if (call.logits.rows < kFew) {
    TargetRow row;
    for (int64_t i = 0; i < call.logits.rows; ++i) one(row, i, parallel);
    return;
  }
  for_ranges(parallel, call.logits.rows, [&](int64_t begin, int64_t end) {
    TargetRow row;
    for (int64_t i = begin; i < end; ++i) one(row, i, serial);
  });
}

}  // namespace thrifty::drafting
