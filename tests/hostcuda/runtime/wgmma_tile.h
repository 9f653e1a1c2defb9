// How wgmma reads a tile through its descriptor, and how fragments hold one.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/cuda/wgmma.cuh"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

void wgmma_begin_block();
void wgmma_end_block();  // records a failure if products were left, or warps disagree

// The fields of a matrix descriptor, in bytes.
struct TileView {
  uint32_t start, leading, stride;
  Swizzle swizzle;
  explicit TileView(uint64_t descriptor);
  // Where in shared memory element k of row mn of the operand lies.
  uint32_t offset(Major major, int mn, int k) const;
};

void check_descriptor(uint64_t descriptor, const char* name, const Site& site);

// Calls body(address) for the 16-byte chunks of rows first .. first + count - 1, 16 columns.
template <class Body>
void for_each_chunk(uint64_t descriptor, Major major, int first, int count, Body&& body) {
  const TileView tile(descriptor);
  const auto visit = [&](int mn, int k) { body(current().arena + tile.offset(major, mn, k)); };
  if (major == Major::k) {
    for (int mn = first; mn < first + count; ++mn)
      for (int k = 0; k < 16; k += 8) visit(mn, k);
  } else {
    for (int mn = first; mn < first + count; mn += 8)
      for (int k = 0; k < 16; ++k) visit(mn, k);
  }
}

// [count][16] values of those rows.
std::vector<float> tile_values(uint64_t descriptor, Major major, int first, int count, bool fp16);
// [16][16] values of A fragments.
std::vector<float> fragment_values(const std::array<std::array<uint32_t, 4>, 32>& registers,
                                   bool fp16);

}  // namespace thrifty::cuda::host
