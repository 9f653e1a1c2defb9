// How kernels find their node, head and rows (plan_nodes.h).
#pragma once

#include "attention/head_rows.h"
#include "attention/plan_nodes.h"
#include "core/element.cuh"

namespace thrifty::attention::cuda {

using namespace thrifty::cuda;

struct Nodes {
  const PlanNode* node;  // [count]
  int count;
};

// The node that has number i: the last one whose `before` is at most i.
template <class Before>
THRIFTY_DEVICE const PlanNode& find_node(const Nodes& nodes, int64_t i, const Before& before) {
  int low = 0, high = nodes.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (before(nodes.node[middle]) <= i) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return nodes.node[low];
}

// Where a head begins. Heads are counted in 32 bits, as grids are: divisions of 64 are calls.
THRIFTY_DEVICE int64_t head_at(const HeadRows& rows, int64_t head) {
  const auto number = uint32_t(head), heads = uint32_t(rows.heads);
  return number / heads * rows.batch_stride + number % heads * rows.head_stride;
}

// The row that number i of a part is.
THRIFTY_DEVICE int row_of(const PlanNode& node, Part part, int i) {
  const Span& span = node.part[part];
  if (part != kSample) return span.begin + i;
  return span.begin + int(int64_t(i) * node.part[kKeys].count / span.count);
}

}  // namespace thrifty::attention::cuda
