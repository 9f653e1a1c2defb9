// How the rows of a grouped product are cut: into chunks of one expert, and these into waves whose
// operands fit bounded scratch memory.
//
// A chunk holds up to kChunkRows rows, so that its operand stays in cache while a thread's share of
// the weights passes once. Threads share a wave by the weights' rows, not by experts: each walks
// all chunks with a slice of every expert's weights, so they finish together however tokens are
// routed. The cut depends on the shape and the routing alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/parallel.h"
#include "core/scratch.h"

namespace thrifty::moe {

constexpr int64_t kChunkRows = 512;
constexpr int64_t kWaveBytes = 32 << 20;  // of operands

struct Chunk {
  int64_t expert, first, rows;  // sorted rows [first, first + rows)
  int64_t column, padded;       // columns of the wave, a multiple of nr
  bool opens, closes;           // the first and the last chunk of its expert
};

struct Wave {
  std::vector<Chunk> chunks;
  std::vector<int32_t> chunk_of_panel;  // nr columns each
  int64_t columns = 0;
};

// offsets: [experts + 1], rising. column_bytes: what a column needs in scratch.
std::vector<Wave> cut_waves(const int32_t* offsets, int64_t experts, int64_t nr,
                            int64_t column_bytes);

int64_t widest(const std::vector<Wave>& waves);  // columns

// Calls body(worker, first, last, chunks, chunks_end): units [first, last) of the weights' rows for
// some chunks. `groups` cuts the chunks, too, for more tasks where units are few; 1 where two
// chunks may write the same output.
template <class Worker, class Make, class Body>
void for_units(ParallelFor parallel, const Wave& wave, int64_t units, int64_t groups,
               const Make& make, const Body& body) {
  const int64_t chunks = int64_t(wave.chunks.size());
  groups = std::clamp<int64_t>(groups, 1, std::max<int64_t>(1, chunks));
  for_ranges(parallel, units * groups, [&](int64_t begin, int64_t end) {
    Worker worker = make();
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = ceil_div(std::max<int64_t>(0, begin - g), groups);
      const int64_t last = ceil_div(std::max<int64_t>(0, end - g), groups);
      if (first >= last) continue;
      body(worker, first, last, wave.chunks.data() + chunks * g / groups,
           wave.chunks.data() + chunks * (g + 1) / groups);
    }
  });
}

}  // namespace thrifty::moe
