// The tile registers of AMX as functions, for `*_isa.cpp` files only: eight tiles of 16 rows of 64
// bytes.
//
// THRIFTY_AMX_TWIN gives the same functions in plain C++, so that the code above them is tested on
// machines without AMX.
#pragma once

#include <cstdint>
#include <cstring>
#ifndef THRIFTY_AMX_TWIN
#include <immintrin.h>
#endif

#include "core/simd.h"

namespace thrifty::THRIFTY_ISA {
namespace {

#ifndef THRIFTY_AMX_TWIN

// Palette 1, all tiles 16 x 64 bytes.
THRIFTY_INLINE void tiles_begin() {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int t = 0; t < 8; ++t) config.row_bytes[t] = 64, config.rows[t] = 16;
  _tile_loadconfig(&config);
}
THRIFTY_INLINE void tiles_end() { _tile_release(); }

// The intrinsics want literal tile numbers.
#define THRIFTY_TILE_ZERO(t) _tile_zero(t)
#define THRIFTY_TILE_LOAD(t, p, row_bytes) _tile_loadd(t, p, row_bytes)
#define THRIFTY_TILE_STORE(t, p, row_bytes) _tile_stored(t, p, row_bytes)
#define THRIFTY_TILE_DOT(c, a, b) _tile_dpbf16ps(c, a, b)

#else

struct Tile {
  uint8_t row[16][64];
};
thread_local Tile twin_tiles[8];

inline void tiles_begin() {
  std::memset(twin_tiles, 0xff, sizeof twin_tiles);
}  // NaN: unset tiles show
inline void tiles_end() {}

inline void twin_load(int t, const void* p, int64_t row_bytes) {
  for (int i = 0; i < 16; ++i) {
    std::memcpy(twin_tiles[t].row[i], static_cast<const uint8_t*>(p) + i * row_bytes, 64);
  }
}

inline void twin_store(int t, void* p, int64_t row_bytes) {
  for (int i = 0; i < 16; ++i) {
    std::memcpy(static_cast<uint8_t*>(p) + i * row_bytes, twin_tiles[t].row[i], 64);
  }
}

// c[i][j] += a[i][2p] b[p][2j] + a[i][2p + 1] b[p][2j + 1]: a lane of 32 bits holds a pair.
inline void twin_dot(int c, int a, int b) {
  for (int i = 0; i < 16; ++i) {
    Vec<float> sum;
    std::memcpy(&sum, twin_tiles[c].row[i], 64);
    for (int p = 0; p < 16; ++p) {
      uint32_t pair;
      UVec<float> pairs;
      std::memcpy(&pair, &twin_tiles[a].row[i][4 * p], 4);
      std::memcpy(&pairs, twin_tiles[b].row[p], 64);
      const UVec<float> both = UVec<float>{} + pair;
      sum += Vec<float>(both << 16) * Vec<float>(pairs << 16);
      sum += Vec<float>(both & 0xffff0000) * Vec<float>(pairs & 0xffff0000);
    }
    std::memcpy(twin_tiles[c].row[i], &sum, 64);
  }
}

#define THRIFTY_TILE_ZERO(t) std::memset(&twin_tiles[t], 0, sizeof(Tile))
#define THRIFTY_TILE_LOAD(t, p, row_bytes) twin_load(t, p, row_bytes)
#define THRIFTY_TILE_STORE(t, p, row_bytes) twin_store(t, p, row_bytes)
#define THRIFTY_TILE_DOT(c, a, b) twin_dot(c, a, b)

#endif

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
