// The parts of a layout in stages, and their table on the device.
//
// The table travels as kernel arguments, some parts a launch: nothing waits for the device, and a
// captured graph holds the table itself.
#pragma once

#include <vector>

#include "attention/core_args.h"
#include "attention/hyper.h"
#include "core/cuda/status.h"
#include "core/scratch_arena.h"

namespace thrifty::attention::cuda {

using thrifty::cuda::LaunchStatus;

constexpr int kSpreadKeys = 4;

struct Stage {
  int first = 0, count = 0;  // parts
  Tiles queries, keys, entries;
  int max_queries = 0;  // of its parts
  int max_units = 0;    // buckets, and kSpreadKeys single entries each
  int64_t first_entry = 0, last_entry = 0;
};

struct Table {
  std::vector<CorePart> parts;
  std::vector<Stage> stages;
  int q_tiles = 0, k_tiles = 0, list_tiles = 0;
  int64_t entries = 0;   // of a key head
  bool covered = false;  // every query is in some part
  bool merged = false;   // some query is in several
};

// Tiles of so many queries, keys and entries.
Table make_table(const Hyper& hyper, int q_rows, int columns);

struct DeviceTable {
  CorePart* parts = nullptr;
  int32_t *q_tile_part = nullptr, *k_tile_part = nullptr, *list_tile_part = nullptr;
  DeviceTable(const Table& table, ScratchArena& arena);
};
LaunchStatus write_table(const Table& table, int q_rows, int columns, const DeviceTable& to,
                         cudaStream_t stream);

}  // namespace thrifty::attention::cuda
