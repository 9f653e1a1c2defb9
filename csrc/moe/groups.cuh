// Groups of rows by offsets that lie on the device, and which of them a block works on.
//
// Nothing is padded and nobody is told: tile t of kM rows finds its group by itself. The tiles of
// group g, one with rows, are numbered from
//
//   first(g) = begin(g) / kM + (number of groups with rows before g)
//
// on. That rises by at least ceil(rows / kM) from one such group to the next, so no two share a
// number, and S / kM + min(E, S) tiles are enough for S rows, however they are spread: the grid is
// known without the offsets. 32 groups are looked at together, by ballots.
#pragma once

#include "core/cuda/index.cuh"
#include "core/cuda/math.cuh"
#include "core/element.cuh"

namespace thrifty::moe::cuda {

using namespace thrifty::cuda;

struct Groups {
  const void* ends = nullptr;  // [count]: where each group ends; the first begins at 0
  Dtype dtype = Dtype::kInt32;
  int count = 0;
  int rows = 0;

  // Whatever the offsets say, nobody leaves [0, rows].
  THRIFTY_DEVICE int end(int group) const {
    if (group < 0) return 0;
    const int64_t value = load_integer(ends, dtype, group);
    return int(value < 0 ? 0 : value > rows ? rows : value);
  }
  THRIFTY_DEVICE int begin(int group) const { return end(group - 1); }
  THRIFTY_DEVICE int last() const { return end(count - 1); }  // behind the rows of groups
};

// kM rows from m on, of which those below `end` are the group's; group -1: none.
struct GroupTile {
  int group = -1, m = 0, end = 0;
};

THRIFTY_HOST_DEVICE int64_t group_tiles(int64_t rows, int64_t groups, int64_t tile) {
  return rows / tile + (groups < rows ? groups : rows);
}

// All 32 lanes call, and get the same.
THRIFTY_DEVICE GroupTile find_tile(const Groups& groups, int tile, int size) {
  GroupTile found;
  int before = 0;  // groups with rows
  for (int base = 0; base < groups.count; base += kWarpSize) {
    const int group = base + lane_index();
    const bool exists = group < groups.count;
    const int begin = exists ? groups.begin(group) : 0, end = exists ? groups.end(group) : 0;
    const uint32_t with_rows = warp_ballot(end > begin);
    const int first = begin / size + before + popcount(with_rows & ((1u << lane_index()) - 1));
    const uint32_t begun = warp_ballot(end > begin && first <= tile);
    if (begun != 0) {
      const int lane = kWarpSize - 1 - count_leading_zeros(begun);
      const int m = shfl(begin + (tile - first) * size, lane), stop = shfl(end, lane);
      found = m < stop ? GroupTile{base + lane, m, stop} : GroupTile{};
    }
    before += popcount(with_rows);
  }
  return found;
}

// The group of a row, `count` for none. All 32 lanes call.
THRIFTY_DEVICE int group_of_row(const Groups& groups, int row) {
  int before = 0;
  for (int base = 0; base < groups.count; base += kWarpSize) {
    const int group = base + lane_index();
    before += popcount(warp_ballot(group < groups.count && groups.end(group) <= row));
  }
  return before;
}

}  // namespace thrifty::moe::cuda
