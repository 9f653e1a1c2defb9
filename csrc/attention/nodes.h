// What is read together, for one query head: a leaf, or a node with its list, and its queries.
#pragma once

#include "attention/hyper.h"
#include "attention/tiles.h"

namespace thrifty::attention {

struct NodeWork {
  NodeKeys keys;
  int64_t k_begin;  // row of the packed keys that its first key is
  List list;
  QueryTiles queries;
};

// Calls body(wave) with leaves, or with nodes of one level, that have queries in [q_begin, q_end):
// no two share a query or a key. A wave has some kWaveQueries queries, so that the lists of its
// nodes take constant memory.
constexpr int64_t kWaveQueries = 4096;
using Wave = std::vector<NodeWork>;
Wave make_leaves(const Hyper& hyper, int64_t head, int64_t first, int64_t last, int64_t q_begin,
                 int64_t q_end, ParallelFor parallel);
// packed: of the lists the panels that forward multiplies with, instead of the rows for backward.
Wave make_nodes(const Hyper& hyper, int64_t head, int64_t first, int64_t last, int64_t q_begin,
                int64_t q_end, bool packed, ParallelFor parallel);

// One tile of a wave.
struct WaveTile {
  NodeWork* work;
  QueryTile tile;
};
std::vector<WaveTile> tiles_of(Wave& wave);

template <class Part, class Make>
void for_runs(const std::vector<Part>& parts, int64_t q_begin, int64_t q_end, const Make& make) {
  for (size_t first = 0; first < parts.size();) {
    int64_t total = 0;
    size_t last = first;
    while (last < parts.size() && total < kWaveQueries &&
           (last == first || (parts[last].q_begin >= parts[last - 1].q_end &&
                              parts[last].k_begin >= parts[last - 1].k_end))) {
      const Part& part = parts[last++];
      total += std::max<int64_t>(0, std::min(q_end, part.q_end) - std::max(q_begin, part.q_begin));
    }
    if (total > 0) make(int64_t(first), int64_t(last));
    first = last;
  }
}

template <class Body>
void for_waves(const Hyper& hyper, int64_t head, int64_t q_begin, int64_t q_end, bool packed,
               ParallelFor parallel, const Body& body) {
  const Layout& layout = hyper.plan.layout;
  for_runs(layout.leaves, q_begin, q_end, [&](int64_t first, int64_t last) {
    Wave wave = make_leaves(hyper, head, first, last, q_begin, q_end, parallel);
    body(wave);
  });
  for_runs(layout.nodes, q_begin, q_end, [&](int64_t first, int64_t last) {
    Wave wave = make_nodes(hyper, head, first, last, q_begin, q_end, packed, parallel);
    body(wave);
  });
}

}  // namespace thrifty::attention
