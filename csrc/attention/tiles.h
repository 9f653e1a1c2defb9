// How the queries of a node are cut into tiles: sorted by window, neighbours together as long as
// sharing the keys that they load is cheaper than loading twice.
#pragma once

#include <vector>

#include "attention/list.h"

namespace thrifty::attention {

struct Tile {
  int64_t begin, end;  // of the sorted queries
};

// Sorted keys [begin, end) of each window; a query of no window reads the last one, which is empty.
struct Windows {
  std::vector<int32_t> begin, end;
};

// Queries [q_begin, q_end) of a node, rows of the packed queries, sorted stably by their window.
struct WindowedQueries {
  std::vector<int32_t> rows, windows;
  Windows bounds;
  std::vector<Tile> tiles;

  // q_window: of all queries of the node, the first of which is row `first_row`
  void sort(const int32_t* q_window, int64_t first_row, int64_t q_begin, int64_t q_end,
            Windows windows);
  int64_t size() const { return int64_t(rows.size()); }
};

}  // namespace thrifty::attention
