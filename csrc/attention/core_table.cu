#include "attention/core_table.h"

#include <algorithm>

#include "core/cuda/launch.h"

namespace thrifty::attention::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kPartsPerLaunch = 40;  // 3840 bytes: every driver takes 4 KB of arguments

struct Chunk {
  CorePart parts[kPartsPerLaunch];
};

struct Maps {
  CorePart* parts;
  int32_t *q, *k, *list;
  int q_rows, columns, first;
};

THRIFTY_DEVICE void fill(int32_t* map, int first, int count, int part) {
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x)) map[first + i] = part;
}

THRIFTY_DEVICE int tile_count(int n, int size) { return (n + size - 1) / size; }

__global__ void __launch_bounds__(128)
    core_table_kernel(const __grid_constant__ Chunk chunk, const Maps to) {
  const CorePart& part = chunk.parts[blockIdx.x];
  const int index = to.first + int(blockIdx.x);
  if (threadIdx.x == 0) to.parts[index] = part;
  fill(to.q, part.q_tile, tile_count(part.queries, to.q_rows), index);
  fill(to.k, part.k_tile, tile_count(part.sorted, to.columns), index);
  fill(to.list, part.list_tile, tile_count(part.buckets + part.kept + part.samples, to.columns),
       index);
}

CorePart leaf_part(const Leaf& leaf) {
  CorePart part{};
  part.q_begin = int32_t(leaf.q_begin), part.queries = int32_t(leaf.q_end - leaf.q_begin);
  part.k_begin = int32_t(leaf.k_begin), part.keys = int32_t(leaf.k_end - leaf.k_begin);
  part.sorted = part.keys;
  part.diagonal = int32_t(leaf.q_begin + leaf.diagonal + 1 - leaf.k_begin);
  part.node = -1, part.first = 1;
  return part;
}

CorePart node_part(const Hyper& hyper, int64_t index) {
  const Plan& plan = hyper.plan;
  const Node& node = plan.layout.nodes[size_t(index)];
  CorePart part{};
  part.q_begin = int32_t(node.q_begin), part.queries = int32_t(node.queries());
  part.k_begin = int32_t(node.k_begin), part.keys = int32_t(node.keys());
  part.sorted = part.keys, part.node = int32_t(index);
  part.q_at = node.q_at, part.k_at = node.k_at;
  if (hyper.given.windows != nullptr) {
    part.kept = 0, part.samples = int32_t(hyper.given.list.count);
  } else if (plan.mode == Mode::kMeans) {
    part.kept = int32_t(std::min(plan.keep, node.keys())), part.sorted -= part.kept;
    part.buckets = plan.residual > 0 ? int32_t(bucket_count(node.keys(), plan.num_buckets)) : 0;
  } else {
    part.samples = int32_t(plan.residual);
  }
  return part;
}

// A causal query's last node is the one whose keys begin its sequence, so a leaf ends where no node
// begins: node and leaf of a query that a later node holds begin at one row (layout.cpp).
std::vector<int64_t> rows_of_nodes(const Layout& layout) {
  std::vector<int64_t> rows;
  for (const Node& node : layout.nodes) rows.push_back(node.q_begin);
  std::sort(rows.begin(), rows.end());
  return rows;
}

}  // namespace

Table make_table(const Hyper& hyper, int q_rows, int columns) {
  const Layout& layout = hyper.plan.layout;
  Table table;
  int64_t covered = 0;
  const auto begin_stage = [&] {
    table.stages.push_back({int(table.parts.size()),
                            0,
                            {table.q_tiles, 0},
                            {table.k_tiles, 0},
                            {table.list_tiles, 0},
                            0,
                            0,
                            table.entries,
                            table.entries});
  };
  const auto add = [&](CorePart part) {
    Stage& stage = table.stages.back();
    const int entries = part.buckets + part.kept + part.samples;
    part.q_tile = table.q_tiles, part.k_tile = table.k_tiles, part.list_tile = table.list_tiles;
    part.list_at = table.entries;
    table.q_tiles += int(ceil_div(part.queries, q_rows));
    table.k_tiles += int(ceil_div(part.sorted, columns));
    table.list_tiles += int(ceil_div(entries, columns));
    table.entries += entries;
    if (part.first != 0) covered += part.queries;
    table.merged = table.merged || part.last == 0;
    stage.count += 1;
    stage.queries.count = table.q_tiles - stage.queries.first;
    stage.keys.count = table.k_tiles - stage.keys.first;
    stage.entries.count = table.list_tiles - stage.entries.first;
    stage.max_queries = std::max(stage.max_queries, int(part.queries));
    stage.max_units = std::max(stage.max_units,
                               part.buckets + int(ceil_div(part.kept + part.samples, kSpreadKeys)));
    stage.last_entry = table.entries;
    table.parts.push_back(part);
  };
  if (!layout.leaves.empty()) {
    const std::vector<int64_t> rows = rows_of_nodes(layout);
    begin_stage();
    for (const Leaf& leaf : layout.leaves) {
      CorePart part = leaf_part(leaf);
      part.last = !std::binary_search(rows.begin(), rows.end(), leaf.q_begin);
      add(part);
    }
  }
  // Nodes of one size: one level. Without leaves each is a sequence of its own.
  std::vector<int64_t> sizes;
  if (layout.leaves.empty()) {
    sizes.push_back(-1);
  } else {
    for (const Node& node : layout.nodes) sizes.push_back(node.keys());
    std::sort(sizes.begin(), sizes.end());
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  }
  for (const int64_t size : sizes) {
    begin_stage();
    for (size_t i = 0; i < layout.nodes.size(); ++i) {
      if (size >= 0 && layout.nodes[i].keys() != size) continue;
      CorePart part = node_part(hyper, int64_t(i));
      part.first = size < 0, part.last = size < 0 || layout.nodes[i].first_key == 0;
      add(part);
    }
  }
  table.covered = covered == hyper.problem.nq;
  return table;
}

DeviceTable::DeviceTable(const Table& table, ScratchArena& arena) {
  const auto ints = [&](int count) {
    return static_cast<int32_t*>(arena.take(int64_t(count) * int64_t(sizeof(int32_t))));
  };
  parts = static_cast<CorePart*>(arena.take(int64_t(table.parts.size() * sizeof(CorePart))));
  q_tile_part = ints(table.q_tiles), k_tile_part = ints(table.k_tiles);
  list_tile_part = ints(table.list_tiles);
}

LaunchStatus write_table(const Table& table, int q_rows, int columns, const DeviceTable& to,
                         cudaStream_t stream) {
  LaunchStatus status;
  const int count = int(table.parts.size());
  for (int first = 0; first < count && status.ok(); first += kPartsPerLaunch) {
    const int n = std::min(kPartsPerLaunch, count - first);
    Chunk chunk{};
    std::copy_n(table.parts.begin() + first, n, chunk.parts);
    const Maps maps{to.parts, to.q_tile_part, to.k_tile_part, to.list_tile_part,
                    q_rows,   columns,        first};
    status = {launch(core_table_kernel, dim3(unsigned(n)), dim3(128), 0, stream, chunk, maps),
              "core_table"};
  }
  return status;
}

}  // namespace thrifty::attention::cuda
