// One node of one query head, ready to be read: its sorted keys, its list, its queries in tiles.
#pragma once

#include "attention/hyper.h"
#include "attention/tiles.h"

namespace thrifty::attention {

struct NodeWork {
  const Node* node;
  NodeKeys keys;
  List list;
  WindowedQueries queries;
  int64_t q_begin, q_end;  // rows of the packed queries
};

NodeKeys node_keys(const Hyper& hyper, int64_t head, int64_t node);

// The nodes [first, last) of `head` for queries [q_begin, q_end).
std::vector<NodeWork> make_nodes(const Hyper& hyper, int64_t head, int64_t first, int64_t last,
                                 int64_t q_begin, int64_t q_end, ParallelFor parallel);

// Nodes are worked on in waves of about this many queries, so that their lists take constant memory.
constexpr int64_t kWaveQueries = 8192;
// Calls body(first, last) for runs of nodes that have queries in [q_begin, q_end).
template <class Body>
void for_waves(const Hyper& hyper, int64_t q_begin, int64_t q_end, const Body& body) {
  const std::vector<Node>& nodes = hyper.plan.layout.nodes;
  const auto queries = [&](const Node& n) {
    return std::max<int64_t>(0, std::min(q_end, n.q_end) - std::max(q_begin, n.q_begin));
  };
  for (size_t first = 0; first < nodes.size();) {
    int64_t total = 0;
    size_t last = first;
    // One level alone: its nodes share no queries, so their tiles may run at the same time.
    while (last < nodes.size() && (last == first || nodes[last].q_begin >= nodes[last - 1].q_end) &&
           total < kWaveQueries) {
      total += queries(nodes[last++]);
    }
    if (total > 0) body(int64_t(first), int64_t(last));
    first = last;
  }
}

}  // namespace thrifty::attention
