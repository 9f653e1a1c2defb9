// The entries that stand for keys outside a window: bucket means, kept keys, random samples.
//
// An entry is a key, a value, a log-weight and, for a mean, the variance of its keys; for bucket c
// of n keys k_j:
//
//   key = sum k_j / n   value = sum v_j / n   logw = log n   var = (sum |k_j|^2 / n - |key|^2) / D
//
// Jensen's correction of second order: log mean e^{s q.k_j} = s q.key + s^2 |q|^2 var / 2 + ... for
// keys that spread alike in all directions. Of a bucket that a row's window holds in part, the rest
// counts, with the mean of all (tile.h).
#pragma once

#include <vector>

#include "attention/plan.h"
#include "attention/problem.h"
#include "core/scratch.h"

namespace thrifty::attention {

// The sorted keys of one node and head.
struct NodeKeys {
  Rows k, v;                         // from the node's first key on
  const int32_t* order;              // null: as they lie
  int64_t sorted;                    // keys that windows are cut from
  int64_t kept = 0;                  // keys behind them, which every row sees
  const int32_t* offsets = nullptr;  // [buckets + 1], "means"
  int64_t buckets = 0;
  const int32_t* samples = nullptr;  // [sample_count] sorted positions, "paper"
  int64_t sample_count = 0;
  int64_t window = 0;

  int64_t row(int64_t at) const { return order == nullptr ? at : order[at]; }
};

struct List {
  int64_t count = 0, k_ld = 0, v_ld = 0;
  bool with_var = false;
  Scratch k, v;                     // O [count, ld]
  Scratch logw, var, share;         // T [count]
  std::vector<int32_t> at, at_end;  // the sorted keys that an entry stands for
  Scratch k_panels, v_panels;       // per block of kTileColumns: for q . k, and for p v

  void allocate(const Kit& kit, int64_t entries, int64_t d, int64_t dv);
  // The entries of a node: buckets [first, last), then kept keys and samples. `pack` turns
  // the rows into panels.
  void make_means(const Problem& problem, const NodeKeys& keys, int64_t first, int64_t last);
  void make_keys(const Problem& problem, const NodeKeys& keys);
  void pack(const Problem& problem);

  int64_t blocks() const { return ceil_div(count, kTileColumns); }
  int64_t columns(int64_t block) const {
    return std::min(kTileColumns, count - block * kTileColumns);
  }
  const std::byte* k_block(const Kit& kit, int64_t d, int64_t block) const {
    return k_panels.data() + block * kit.gemm.panels_bytes(d, kTileColumns);
  }
  const std::byte* v_block(const Kit& kit, int64_t dv, int64_t block) const {
    return v_panels.data() + block * kit.gemm.panels_bytes(kTileColumns, dv);
  }
  // Entry i stands for sorted keys [begin, end).
  void stand_for(const Kit& kit, int64_t i, int64_t begin, int64_t end);
  // What a block's columns are to the tile kernels, but for rows and scores.
  ScoreBlock score_block(const Kit& kit, int64_t block) const;
};

}  // namespace thrifty::attention
