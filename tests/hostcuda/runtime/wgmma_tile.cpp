// Reading of descriptors (PTX ISA, "Asynchronous Warpgroup Level Matrix Shared Memory Layout").
#include "hostcuda/runtime/wgmma_tile.h"

#include <cstring>

#include "hostcuda/runtime/values.h"

namespace thrifty::cuda::host {

TileView::TileView(uint64_t descriptor)
    : start(uint32_t(descriptor & 0x3fff) << 4),
      leading(uint32_t(descriptor >> 16 & 0x3fff) << 4),
      stride(uint32_t(descriptor >> 32 & 0x3fff) << 4) {
  constexpr Swizzle kSwizzles[] = {Swizzle::none, Swizzle::bytes128, Swizzle::bytes64,
                                   Swizzle::bytes32};
  swizzle = kSwizzles[descriptor >> 62];
}

uint32_t TileView::offset(Major major, int mn, int k) const {
  const uint32_t row = uint32_t(mn), column = uint32_t(k);
  const uint32_t span = uint32_t(swizzle_span(swizzle));
  if (swizzle == Swizzle::none) {
    // Blocks of 8 x 8 elements, 128 bytes each, rows of 16 bytes along the major direction.
    const uint32_t within =
        major == Major::k ? row % 8 * 16 + column % 8 * 2 : column % 8 * 16 + row % 8 * 2;
    return start + row / 8 * stride + column / 8 * leading + within;
  }
  if (major == Major::k)
    return swizzled(swizzle, start + row / 8 * stride + row % 8 * span + column * 2);
  const uint32_t wide = span / 2;
  return swizzled(swizzle, start + row / wide * leading + row % wide * 2 + column / 8 * stride +
                               column % 8 * span);
}

void check_descriptor(uint64_t descriptor, const char* name, const Site& site) {
  const TileView tile(descriptor);
  const uint32_t span = uint32_t(swizzle_span(tile.swizzle));
  // A k slice may begin inside a row of the first line, nowhere else.
  if (tile.swizzle != Swizzle::none && tile.start % (8 * span) >= span)
    fail(site, std::string(name) + ": the tile does not start on 8 rows of the swizzle, " +
                   std::to_string(8 * span) + " bytes");
}

std::vector<float> tile_values(uint64_t descriptor, Major major, int first, int count,
                               bool is_fp16) {
  const TileView tile(descriptor);
  std::vector<float> values;
  values.reserve(size_t(count) * 16);
  for (int mn = first; mn < first + count; ++mn)
    for (int k = 0; k < 16; ++k) {
      uint16_t bits;
      std::memcpy(&bits, current().arena + tile.offset(major, mn, k), 2);
      values.push_back(half_value(is_fp16, bits));
    }
  return values;
}

std::vector<float> fragment_values(const std::array<std::array<uint32_t, 4>, 32>& registers,
                                   bool is_fp16) {
  std::vector<float> values(256);
  for (size_t lane = 0; lane < 32; ++lane)
    for (size_t i = 0; i < 4; ++i) {
      const size_t row = lane / 4 + i % 2 * 8, column = lane % 4 * 2 + i / 2 * 8;
      values[row * 16 + column] = half_value(is_fp16, uint16_t(registers[lane][i]));
      values[row * 16 + column + 1] = half_value(is_fp16, uint16_t(registers[lane][i] >> 16));
    }
  return values;
}

}  // namespace thrifty::cuda::host
