// What the kernels of attention's core are told: operands, the choice of keys, and the work, which
// is cut on the host because lengths are known there.
//
// A part is a leaf or a node (layout.h). Parts of one stage share no query and no key: leaves, then
// the nodes of each size, or all nodes at once where there are no leaves. A launch does one stage,
// so sums that several stages add to need no atomics and have a fixed order.
#pragma once

#include <driver_types.h>

#include <cstdint>

#include "core/dtype.h"

namespace thrifty::attention::cuda {

struct CorePart {
  int32_t q_begin, queries;           // rows of the packed queries
  int32_t k_begin, keys;              // rows of the packed keys
  int32_t sorted, kept;               // keys that windows are cut from, and those behind them
  int32_t buckets, samples;           // with `kept`: the list's entries
  int32_t diagonal;                   // leaf: query i of the part sees its first i + diagonal keys
  int32_t node;                       // of layout.nodes; -1: a leaf
  int32_t first, last;                // whether its queries' softmax begins, and ends, here
  int32_t q_tile, k_tile, list_tile;  // the first of its tiles of queries, keys and entries
  int32_t unused;
  int64_t q_at, k_at, list_at;  // its place in q_window, in order, and among all entries
};

// [batch, heads, n, columns]; columns are contiguous.
struct CoreRows {
  const void* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;  // strides in elements
  int bytes = 0;                         // that one access may take
};

// All entries of a head's lists, part by part, rows padded with zeros to 16 bytes (list.h).
struct ListRows {
  void *k = nullptr, *v = nullptr;                         // T [heads, total, k_ld], [.., v_ld]
  void *logw = nullptr, *var = nullptr, *share = nullptr;  // sums [heads, total]
  int32_t *at = nullptr, *at_end = nullptr;                // [heads, total]
  int64_t total = 0;
  int k_ld = 0, v_ld = 0;
  bool with_var = false;
};

struct CoreArgs {
  CoreRows q, k, v;
  double scale = 1;
  int batch = 0, q_heads = 0, k_heads = 0, nq = 0, nk = 0, d = 0, dv = 0;
  // The plan (plan.h), by key head, but for q_window and q_rows.
  const int32_t *order = nullptr, *offsets = nullptr, *q_window = nullptr, *samples = nullptr;
  int32_t* q_rows = nullptr;  // [B, Hq, q_total]: each part's queries, sorted by window
  int64_t q_total = 0, k_total = 0;
  int nodes = 0, num_buckets = 0, window = 0;
  bool paper = false;
  // hyper_core: windows [B, Hkv, count, 2] of the queries q_order [q_offsets[w], q_offsets[w + 1]).
  const int32_t *windows = nullptr, *q_order = nullptr, *q_offsets = nullptr;
  int window_count = 0;
  // The work.
  const CorePart* parts = nullptr;
  const int32_t *q_tile_part = nullptr, *k_tile_part = nullptr, *list_tile_part = nullptr;
  ListRows list;
};

// Consecutive tiles: those of one stage.
struct Tiles {
  int first = 0, count = 0;
};

}  // namespace thrifty::attention::cuda
