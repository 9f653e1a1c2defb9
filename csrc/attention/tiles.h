// How the queries of a leaf or node are cut into tiles: sorted by window, neighbours together as
// long as sharing the keys that they load is cheaper than loading them twice.
#pragma once

#include <vector>

#include "attention/list.h"

namespace thrifty::attention {

// Sorted keys [begin, end) of each window.
struct Windows {
  std::vector<int32_t> begin, end;
};

struct QueryTile {
  int64_t begin, end;  // of the arrays of QueryTiles
  int64_t low, high;   // the sorted keys that its rows read lie in [low, high)
  int64_t rows() const { return end - begin; }
};

struct QueryTiles {
  std::vector<int32_t> rows;        // of the packed queries
  std::vector<int32_t> begin, end;  // the sorted keys that each reads
  std::vector<QueryTile> tiles;

  // Rows [q_begin, q_end), of which q_window has the windows.
  void by_window(const int32_t* q_window, int64_t q_begin, int64_t q_end, const Windows& windows);
  // Rows [q_begin, q_end) as they lie; row i reads the first clamp(i + shift, 0, keys) keys.
  void by_position(int64_t q_begin, int64_t q_end, int64_t shift, int64_t keys);
};

}  // namespace thrifty::attention
