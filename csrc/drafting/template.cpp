#include "drafting/template.h"

#include "core/error.h"

namespace thrifty::drafting {

DraftTemplate::DraftTemplate(const int32_t* parents, int64_t size)
    : child_begin(size_t(size), 0), child_count(size_t(size), 0) {
  THRIFTY_CHECK(size >= 1 && size <= kMaxNodes, "DraftTemplate: parents: expected 1 to ", kMaxNodes,
                " nodes, got ", size);
  THRIFTY_CHECK(parents[0] == -1, "DraftTemplate: parents: expected -1 for node 0, got ",
                parents[0]);
  for (int64_t i = 1; i < size; ++i) {
    const int32_t parent = parents[i];
    THRIFTY_CHECK(parent >= 0 && parent < i && (i == 1 || parent >= parents[i - 1]),
                  "DraftTemplate: parents: expected breadth-first order, got ", parent,
                  " for node ", i);
    if (child_count[size_t(parent)]++ == 0) child_begin[size_t(parent)] = int32_t(i);
  }
}

}  // namespace thrifty::drafting
