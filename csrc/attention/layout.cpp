#include "attention/layout.h"

#include <algorithm>

namespace thrifty::attention {
namespace {

void add_node(Layout& layout, Node node) {
  if (node.queries() <= 0 || node.keys() <= 0) return;
  node.q_at = layout.q_total, node.k_at = layout.k_total;
  layout.q_total += node.queries(), layout.k_total += node.keys();
  layout.nodes.push_back(node);
}

void add_causal(Layout& layout, int64_t q0, int64_t nq, int64_t k0, int64_t nk, int64_t leaf) {
  const int64_t shift = nk - nq;  // of a query's position against its number
  const auto row = [&](int64_t position) {
    return q0 + std::clamp<int64_t>(position - shift, 0, nq);
  };
  for (int64_t at = 0; at < nk; at += leaf) {
    const int64_t end = std::min(nk, at + leaf);
    const Leaf part{row(at), row(end), k0 + at, k0 + end, k0 + shift - q0};
    if (part.q_end > part.q_begin) layout.leaves.push_back(part);
  }
  for (int64_t size = leaf; size < nk; size *= 2) {
    for (int64_t at = 0; at + size < nk; at += 2 * size) {
      const int64_t middle = at + size, end = std::min(nk, at + 2 * size);
      add_node(layout,
               {row(middle), row(end), k0 + at, k0 + middle, at, row(at), row(middle), 0, 0});
    }
  }
}

}  // namespace

Layout make_layout(const std::vector<int64_t>& cu_q, const std::vector<int64_t>& cu_k, bool causal,
                   int64_t leaf) {
  Layout layout;
  for (size_t s = 0; s + 1 < cu_q.size(); ++s) {
    const int64_t q0 = cu_q[s], q1 = cu_q[s + 1], k0 = cu_k[s], k1 = cu_k[s + 1];
    if (causal) {
      add_causal(layout, q0, q1 - q0, k0, k1 - k0, leaf);
    } else {
      add_node(layout, {q0, q1, k0, k1, 0, q0, q1, 0, 0});
    }
  }
  return layout;
}

}  // namespace thrifty::attention
