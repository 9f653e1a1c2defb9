// Which sorted keys a query reads: the device's form of nodes.cpp. Whatever integers a plan holds,
// nothing outside its part is addressed.
#pragma once

#include "attention/core_args.h"
#include "core/cuda/memory.cuh"

namespace thrifty::attention::cuda {

using namespace thrifty::cuda;

// Buckets of a node, bucket_count of plan.h.
THRIFTY_DEVICE int bucket_limit(const CorePart& part, int num_buckets) {
  const int most = part.keys / 8;
  return most < 1 ? 1 : most < num_buckets ? most : num_buckets;
}

THRIFTY_DEVICE int between(int value, int low, int high) {
  return value < low ? low : value < high ? value : high;
}

struct Window {
  int begin = 0, end = 0;
};

// Sorted keys of bucket c: [begin, end) of the part's sorted keys.
THRIFTY_DEVICE Window bucket_keys(const CoreArgs& a, const CorePart& part, int64_t key_head,
                                  int c) {
  const int32_t* const offsets =
      a.offsets + (key_head * a.nodes + part.node) * (int64_t(a.num_buckets) + 1);
  Window keys;
  keys.begin = between(load_readonly(offsets + c), 0, part.sorted);
  keys.end = between(load_readonly(offsets + c + 1), keys.begin, part.sorted);
  return keys;
}

THRIFTY_DEVICE Window window_from(const CoreArgs& a, const CorePart& part, int64_t begin) {
  const int size = a.window < part.sorted ? a.window : part.sorted;
  const int64_t last = part.sorted - size;
  const int at = int(begin < 0 ? 0 : begin < last ? begin : last);
  return {at, at + size};
}

// Of the query at place i of the part's sorted ones, which is the part's query `row`.
THRIFTY_DEVICE Window window_of(const CoreArgs& a, const CorePart& part, int64_t head,
                                int64_t key_head, int i, int row) {
  if (part.node < 0) return {0, between(row + part.diagonal, 0, part.keys)};
  if (a.windows != nullptr) {
    const int32_t* const offsets = a.q_offsets + head * (a.window_count + 1);
    int low = 0, high = a.window_count;  // the last item that begins at or before i
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (load_readonly(offsets + middle) <= i) {
        low = middle;
      } else {
        high = middle - 1;
      }
    }
    const bool inside = low < a.window_count && load_readonly(offsets + low) <= i;
    if (!inside) return {};
    const int32_t* const bounds = a.windows + 2 * (key_head * a.window_count + low);
    return {between(load_readonly(bounds), 0, part.sorted),
            between(load_readonly(bounds + 1), 0, part.sorted)};
  }
  const int window = load_readonly(a.q_window + head * a.q_total + part.q_at + row);
  if (a.paper) return window_from(a, part, int64_t(window) * a.window);
  const Window keys =
      bucket_keys(a, part, key_head, between(window, 0, bucket_limit(part, a.num_buckets) - 1));
  const int spare = keys.end - keys.begin - a.window;
  const int half = spare >= 0 ? spare / 2 : -((1 - spare) / 2);  // rounded down
  return window_from(a, part, int64_t(keys.begin) + half);
}

// The part's query at place i of the sorted ones.
THRIFTY_DEVICE int query_at(const CoreArgs& a, const CorePart& part, int64_t head, int i) {
  if (part.node < 0) return i;
  const int32_t* const rows = a.windows != nullptr ? a.q_order : a.q_rows;
  return between(load_readonly(rows + head * a.q_total + part.q_at + i), 0, part.queries - 1);
}

// Sorted key i as the plan has it, and the row of the packed keys that this is.
THRIFTY_DEVICE int order_at(const CoreArgs& a, const CorePart& part, int64_t key_head, int i) {
  return part.node < 0 ? i : load_readonly(a.order + key_head * a.k_total + part.k_at + i);
}
THRIFTY_DEVICE int key_row(const CorePart& part, int at) {
  return part.k_begin + between(at, 0, part.keys - 1);
}
THRIFTY_DEVICE int key_at(const CoreArgs& a, const CorePart& part, int64_t key_head, int i) {
  return key_row(part, order_at(a, part, key_head, i));
}

}  // namespace thrifty::attention::cuda
