#include "attention/tiles.h"

#include <algorithm>

#include "core/bucket_sort.h"

namespace thrifty::attention {
namespace {

// Loading a key costs as much as multiplying it with this many rows (AVX2: 60 of 8 cycles).
constexpr int64_t kLoadRows = 8;

}  // namespace

void WindowedQueries::sort(const int32_t* q_window, int64_t first_row, int64_t q_begin,
                           int64_t q_end, Windows all) {
  const int64_t n = q_end - q_begin, count = int64_t(all.begin.size());
  bounds = std::move(all);
  rows.resize(size_t(n)), windows.resize(size_t(n)), tiles.clear();
  std::vector<int32_t> offsets(size_t(count) + 1);
  q_window += q_begin - first_row;
  Array ids{.data = const_cast<int32_t*>(q_window), .dtype = Dtype::kInt32, .ndim = 1};
  ids.shape[0] = n, ids.strides[0] = 1;
  bucket_sort(ids, 1, n, count, rows.data(), offsets.data(), nullptr, serial);
  for (int64_t i = 0; i < n; ++i) {
    windows[size_t(i)] = q_window[rows[size_t(i)]];
    rows[size_t(i)] += int32_t(q_begin);
  }
  // The runs of one window, whole or in pieces of kTileRows, joined greedily.
  Tile tile{0, 0};
  int64_t low = 0, high = 0;
  for (int64_t w = 0; w < count; ++w) {
    const int64_t begin = bounds.begin[size_t(w)], end = bounds.end[size_t(w)];
    for (int64_t at = offsets[size_t(w)]; at < offsets[size_t(w) + 1];) {
      const int64_t piece = std::min(kTileRows, offsets[size_t(w) + 1] - at);
      const int64_t height = tile.end - tile.begin;
      const int64_t joined = std::max(high, end) - std::min(low, begin);
      const bool join = height > 0 && height + piece <= kTileRows &&
                        joined * (height + piece + kLoadRows) <=
                            (high - low) * (height + kLoadRows) + (end - begin) * (piece + kLoadRows);
      if (join) {
        low = std::min(low, begin), high = std::max(high, end);
      } else {
        if (height > 0) tiles.push_back(tile);
        tile.begin = at, low = begin, high = end;
      }
      tile.end = at += piece;
    }
  }
  if (tile.end > tile.begin) tiles.push_back(tile);
}

}  // namespace thrifty::attention
