// hyper_attention and hyper_core: attention over leaves (exact) and nodes (windows of sorted keys
// and a list), all as one softmax per query.
//
//   out_i = sum_j e^{x_ij} v_j / sum_j e^{x_ij}     lse_i = log sum_j e^{x_ij}
//
// over everything that query i looks at: keys of its leaf and of its windows, entries of its lists
// (x as in tile.h). Forward runs over the nodes by level, queries sorted by window, with running
// sums per query; backward reads the final out and lse alone.
#pragma once

#include "attention/list.h"

namespace thrifty::attention {

// The choice of keys, from hyper_plan; [B, Hkv, ...] but for q_window, which is [B, Hq, TQ].
struct Plan {
  Layout layout;
  Mode mode = Mode::kMeans;
  int64_t num_buckets = 0, window = 0, residual = 0, keep = 0;
  const int32_t *order = nullptr, *offsets = nullptr, *q_window = nullptr, *samples = nullptr;
};

// hyper_core: one node whose windows and list are given, dense, by batch and key head.
struct GivenList {
  int64_t count = 0;
  const void *k = nullptr, *v = nullptr;       // [count, D], [count, Dv], storage format
  const void *logw = nullptr, *var = nullptr;  // [count] sums; var may be null
  const int32_t* range = nullptr;              // [count, 2] or null
};
struct Given {
  const int32_t* windows = nullptr;  // [window_count, 2]; null: this is hyper_attention
  int64_t window_count = 0;
  GivenList list;
};

struct Hyper {
  Problem problem;
  Plan plan;
  Given given;
};

// out [B, Hq, Nq, Dv] and lse [B, Hq, Nq] dense.
void hyper_fwd(const Hyper& hyper, std::byte* out, std::byte* lse, ParallelFor parallel);

// Of hyper_core's list, as sums, [B, Hkv, S, ...] dense, added to.
struct GivenGrads {
  std::byte *k = nullptr, *v = nullptr, *logw = nullptr, *var = nullptr;
};

struct BackwardArgs {
  Heads dout;
  const std::byte *dlse, *out, *lse;  // dense; dlse may be null
  std::byte *dq, *dk, *dv;            // dense, in the storage format
  GivenGrads given;
};

// The exact gradient of what hyper_fwd computes, the choice of keys being a constant.
void hyper_bwd(const Hyper& hyper, const BackwardArgs& args, ParallelFor parallel);

}  // namespace thrifty::attention
