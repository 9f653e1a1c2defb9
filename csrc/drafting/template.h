// The static shape of a draft, as the drafting loop reads it.
#pragma once

#include <cstdint>
#include <vector>

namespace thrifty::drafting {

constexpr int64_t kMaxNodes = 1024;

// Nodes breadth first, children of a node side by side in draw order.
struct DraftTemplate {
  // parents[size]: -1 for node 0, then not decreasing. Throws std::invalid_argument.
  DraftTemplate(const int32_t* parents, int64_t size);

  int64_t size() const { return int64_t(child_count.size()); }
  int64_t words() const { return (size() + 63) / 64; }  // of a bit set of nodes
  std::vector<int32_t> child_begin, child_count;
};

}  // namespace thrifty::drafting
