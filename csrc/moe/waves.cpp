#include "moe/waves.h"

namespace thrifty::moe {

std::vector<Wave> cut_waves(const int32_t* offsets, int64_t experts, int64_t nr,
                            int64_t column_bytes) {
  const int64_t most = std::max(kChunkRows, kWaveBytes / std::max<int64_t>(1, column_bytes));
  std::vector<Wave> waves;
  for (int64_t e = 0; e < experts; ++e) {
    const int64_t end = offsets[e + 1];
    // Chunks of one expert are equally long, give or take a panel.
    const int64_t pieces = ceil_div(end - offsets[e], kChunkRows);
    const int64_t length = pieces > 0 ? round_up(ceil_div(end - offsets[e], pieces), nr) : 0;
    for (int64_t first = offsets[e]; first < end; first += length) {
      const int64_t rows = std::min(length, end - first), padded = round_up(rows, nr);
      if (waves.empty() || waves.back().columns + padded > most) waves.emplace_back();
      Wave& wave = waves.back();
      const auto index = int32_t(wave.chunks.size());
      wave.chunks.push_back(
          {e, first, rows, wave.columns, padded, first == offsets[e], first + rows == end});
      wave.chunk_of_panel.insert(wave.chunk_of_panel.end(), size_t(padded / nr), index);
      wave.columns += padded;
    }
  }
  return waves;
}

int64_t widest(const std::vector<Wave>& waves) {
  int64_t columns = 0;
  for (const Wave& wave : waves) columns = std::max(columns, wave.columns);
  return columns;
}

}  // namespace thrifty::moe
