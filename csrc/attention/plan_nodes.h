// The nodes of a layout (layout.h) as a table in device memory, so that one launch serves all.
//
// A grid covers the blocks of all nodes of a head one after the other; a block finds its node by a
// search in the table, in which each node says how many blocks come before its own.
#pragma once

#include <vector>

#include "attention/plan.h"
#include "attention/problem.h"
#include "core/scratch.h"

namespace thrifty::attention::cuda {

constexpr int kTile = 128;             // rows of a product's block
constexpr int kChunk = 512;            // rows whose sum one block takes
constexpr int kCandidates = 8;         // of the first centroids, for each of them
constexpr int kLloydKeys = 16;         // of the sample, for each centroid
constexpr int64_t kMaxWalkers = 64;    // warps that sort a node's rows,
constexpr int64_t kWalkerRows = 1024;  // each of them at least so many

enum Part { kKeys, kQueries, kSample, kProbes, kParts };

// Rows [begin, begin + count) of a head: of q for queries and probes, else of k. The sample is
// every (keys / count)-th key.
struct Span {
  int64_t at;  // where the part's numbers begin in an array of all nodes
  int32_t begin, count;
  int32_t tile, walker;  // blocks of kTile rows, and walkers, of the nodes before
};

struct PlanNode {
  Span part[kParts];
  int64_t gram;                   // centroids^2 of the nodes before
  int32_t centroid, gram_tile;    // centroids and blocks of them squared, of the nodes before
  int32_t candidate, candidates;  // of the nodes before, and the node's own
  int32_t buckets, number;        // centroids; what draws are numbered by
  int32_t key_chunk, probe_chunk;
};

struct NodeTable {
  std::vector<PlanNode> nodes;
  PlanNode total{};  // what would be the next node's

  NodeTable(const Layout& layout, const PlanArgs& args);
};

// Walkers of a part take segments of so many rows. Kernels call it too, and a reference to a
// constant, as std::max takes, is one to the host's memory there.
constexpr int64_t walker_rows(int64_t count, int64_t width) {
  const int64_t share = round_up(ceil_div(count, kMaxWalkers), 32), least = round_up(width, 32);
  const int64_t rows = share > least ? share : least;
  return rows > kWalkerRows ? rows : kWalkerRows;
}

}  // namespace thrifty::attention::cuda
