#include "attention/tiles.h"

#include <algorithm>

#include "core/bucket_sort.h"

namespace thrifty::attention {
namespace {

// Loading a key costs as much as multiplying it with this many rows (AVX2: 60 of 8 cycles).
constexpr int64_t kLoadRows = 8;

// Whether loading [low, high) for all rows is cheaper than each tile loading its own.
bool cheaper_together(const QueryTile& a, const QueryTile& b) {
  const auto cost = [](int64_t keys, int64_t rows) { return keys * (rows + kLoadRows); };
  const int64_t joined = std::max(a.high, b.high) - std::min(a.low, b.low);
  return a.rows() + b.rows() <= kTileRows &&
         cost(joined, a.rows() + b.rows()) <=
             cost(a.high - a.low, a.rows()) + cost(b.high - b.low, b.rows());
}

}  // namespace

void QueryTiles::by_window(const int32_t* q_window, int64_t q_begin, int64_t q_end,
                           const Windows& windows) {
  const int64_t n = q_end - q_begin, count = int64_t(windows.begin.size());
  rows.resize(size_t(n)), begin.resize(size_t(n)), end.resize(size_t(n)), tiles.clear();
  std::vector<int32_t> offsets(size_t(count) + 1);
  Array ids{.data = const_cast<int32_t*>(q_window), .dtype = Dtype::kInt32, .ndim = 1};
  ids.shape[0] = n, ids.strides[0] = 1;
  bucket_sort(ids, 1, n, count, rows.data(), offsets.data(), nullptr, serial);
  for (size_t i = 0; i < size_t(n); ++i) {
    const auto window = size_t(q_window[rows[i]]);
    begin[i] = windows.begin[window], end[i] = windows.end[window];
    rows[i] += int32_t(q_begin);
  }
  for (int64_t w = 0; w < count; ++w) {
    const int64_t low = windows.begin[size_t(w)], high = windows.end[size_t(w)];
    for (int64_t at = offsets[size_t(w)]; at < offsets[size_t(w) + 1];) {
      const int64_t piece = std::min(kTileRows, offsets[size_t(w) + 1] - at);
      const QueryTile next{at, at + piece, low, high};
      if (!tiles.empty() && cheaper_together(tiles.back(), next)) {
        QueryTile& last = tiles.back();
        last = {last.begin, next.end, std::min(last.low, low), std::max(last.high, high)};
      } else {
        tiles.push_back(next);
      }
      at += piece;
    }
  }
}

void QueryTiles::by_position(int64_t q_begin, int64_t q_end, int64_t shift, int64_t keys) {
  const int64_t n = q_end - q_begin;
  rows.resize(size_t(n)), begin.assign(size_t(n), 0), end.resize(size_t(n)), tiles.clear();
  for (int64_t i = 0; i < n; ++i) {
    rows[size_t(i)] = int32_t(q_begin + i);
    end[size_t(i)] = int32_t(std::clamp<int64_t>(q_begin + i + shift, 0, keys));
  }
  for (int64_t at = 0; at < n; at += kTileRows) {
    const int64_t last = std::min(n, at + kTileRows);
    tiles.push_back({at, last, 0, end[size_t(last - 1)]});
  }
}

}  // namespace thrifty::attention
