// The block products of gemm.h on AMX tiles: bfloat16 operands, float32 sums. Included by
// gemm_isa.cpp alone.
//
// A panel is 32 columns wide and, per 32 steps of k, two tiles of 16 columns, each row holding a
// pair of k's rows interleaved (what tdpbf16ps multiplies). 32 x 32 sums stay in four tiles; the
// other four hold A and B.
#pragma once

#include "core/amx.h"
#include "core/gemm.h"
#include "core/simd_transpose.h"

namespace thrifty::THRIFTY_ISA {
namespace {

static_assert(kSimdBytes == 64);

constexpr int64_t kTile = 16, kStep = 32;  // rows of a tile; bfloat16 in a row of one
constexpr int64_t kTileElements = kTile * kStep;
constexpr int64_t kAmxPanel = 2 * kTile;

// c[32, 32] (+)= a b over `steps` steps. Rows of A's tiles are a_row elements apart, tiles of a
// step a_tile, steps a_step.
THRIFTY_INLINE void tile_block(int64_t steps, const BFloat16* a, int64_t a_row, int64_t a_tile,
                               int64_t a_step, const BFloat16* panel, float* c, int64_t ldc,
                               bool add) {
  float *c01 = c + kTile, *c10 = c + kTile * ldc, *c11 = c10 + kTile;
  const int64_t c_bytes = ldc * int64_t(sizeof(float)), a_bytes = a_row * int64_t(sizeof(BFloat16));
  if (add) {
    THRIFTY_TILE_LOAD(0, c, c_bytes);
    THRIFTY_TILE_LOAD(1, c01, c_bytes);
    THRIFTY_TILE_LOAD(2, c10, c_bytes);
    THRIFTY_TILE_LOAD(3, c11, c_bytes);
  } else {
    THRIFTY_TILE_ZERO(0);
    THRIFTY_TILE_ZERO(1);
    THRIFTY_TILE_ZERO(2);
    THRIFTY_TILE_ZERO(3);
  }
  for (int64_t p = 0; p < steps; ++p, a += a_step, panel += 2 * kTileElements) {
    THRIFTY_TILE_LOAD(4, a, a_bytes);
    THRIFTY_TILE_LOAD(6, panel, 64);
    THRIFTY_TILE_DOT(0, 4, 6);
    THRIFTY_TILE_LOAD(7, panel + kTileElements, 64);
    THRIFTY_TILE_DOT(1, 4, 7);
    THRIFTY_TILE_LOAD(5, a + a_tile, a_bytes);
    THRIFTY_TILE_DOT(2, 5, 6);
    THRIFTY_TILE_DOT(3, 5, 7);
  }
  THRIFTY_TILE_STORE(0, c, c_bytes);
  THRIFTY_TILE_STORE(1, c01, c_bytes);
  THRIFTY_TILE_STORE(2, c10, c_bytes);
  THRIFTY_TILE_STORE(3, c11, c_bytes);
}

void amx_gemm(int64_t m, int64_t n, int64_t k, const void* a_, int64_t lda, const void* panels_,
              void* c_, int64_t ldc, bool add) {
  const auto* a = static_cast<const BFloat16*>(a_);
  const auto* panels = static_cast<const BFloat16*>(panels_);
  float* c = static_cast<float*>(c_);
  const int64_t steps = ceil_div(k, kStep);
  tiles_begin();
  for (int64_t j = 0; j < n; j += kAmxPanel, panels += steps * 2 * kTileElements) {
    for (int64_t i = 0; i < m; i += 2 * kTile) {
      tile_block(steps, a + i * lda, lda, kTile * lda, kStep, panels, c + i * ldc + j, ldc, add);
    }
  }
  tiles_end();
}

// Rows 2p and 2p + 1 of 16 columns as pairs: lane j holds both.
THRIFTY_INLINE UVec<float> pair_rows(const BFloat16* even, const BFloat16* odd) {
  return widen_bits(&even->bits) | widen_bits(&odd->bits) << 16;
}

// tile[i][p] = a[p][i]: 16 columns of 32 rows become the rows of an A tile.
THRIFTY_INLINE void transpose_tile(const BFloat16* a, int64_t lda, BFloat16* tile) {
  UVec<float> rows[16];
  for (int p = 0; p < 16; ++p) rows[p] = pair_rows(a + 2 * p * lda, a + (2 * p + 1) * lda);
  transpose<float>(rows);
  for (int i = 0; i < 16; ++i) __builtin_memcpy(tile + i * kStep, &rows[i], 64);
}

void amx_gemm_t(int64_t m, int64_t n, int64_t k, const void* a_, int64_t lda, const void* panels_,
                void* c_, int64_t ldc, bool add) {
  constexpr int64_t kMaxSteps = 8;  // 16 KB of transposed tiles at a time
  alignas(64) BFloat16 tiles[kMaxSteps * 2 * kTileElements];
  const auto* a = static_cast<const BFloat16*>(a_);
  const auto* panels = static_cast<const BFloat16*>(panels_);
  float* c = static_cast<float*>(c_);
  const int64_t all_steps = ceil_div(k, kStep);
  tiles_begin();
  for (int64_t first = 0; first < all_steps || first == 0; first += kMaxSteps) {
    const int64_t steps = all_steps - first < kMaxSteps ? all_steps - first : kMaxSteps;
    for (int64_t i = 0; i < m; i += 2 * kTile) {
      for (int64_t p = 0; p < steps; ++p) {
        const BFloat16* rows = a + (first + p) * kStep * lda + i;
        transpose_tile(rows, lda, tiles + 2 * p * kTileElements);
        transpose_tile(rows + kTile, lda, tiles + (2 * p + 1) * kTileElements);
      }
      for (int64_t j = 0; j < n; j += kAmxPanel) {
        const BFloat16* panel = panels + (j / kAmxPanel * all_steps + first) * 2 * kTileElements;
        tile_block(steps, tiles, kStep, kTileElements, 2 * kTileElements, panel, c + i * ldc + j,
                   ldc, add || first > 0);
      }
    }
  }
  tiles_end();
}

// Pairs (b(p, j), b(p + 1, j)), zeros beyond k and n.
void amx_pack(int64_t k, int64_t n, MatrixView b, void* panels) {
  const auto* data = static_cast<const BFloat16*>(b.data);
  auto* out = static_cast<BFloat16*>(panels);
  for (int64_t j0 = 0; j0 < n; j0 += kAmxPanel) {
    for (int64_t p0 = 0; p0 < k; p0 += kStep, out += 2 * kTileElements) {
      std::memset(out, 0, 2 * kTileElements * sizeof(BFloat16));
      const int64_t rows = k - p0 < kStep ? k - p0 : kStep;
      const int64_t columns = n - j0 < kAmxPanel ? n - j0 : kAmxPanel;
      const BFloat16* block = data + p0 * b.row_stride + j0 * b.col_stride;
      if (rows == kStep && columns == kAmxPanel && b.col_stride == 1) {
        for (int64_t p = 0; p < kTile; ++p) {
          const BFloat16* even = block + 2 * p * b.row_stride;
          for (int64_t t = 0; t < 2; ++t) {
            const UVec<float> pairs = pair_rows(even + t * kTile, even + b.row_stride + t * kTile);
            __builtin_memcpy(out + t * kTileElements + p * kStep, &pairs, 64);
          }
        }
        continue;
      }
      if (rows == kStep && b.row_stride == 1) {  // a dword is a pair already
        for (int64_t t = 0; t * kTile < columns; ++t) {
          UVec<float> pairs[kTile] = {};
          for (int64_t j = 0; j < kTile && t * kTile + j < columns; ++j) {
            __builtin_memcpy(&pairs[j], block + (t * kTile + j) * b.col_stride, 64);
          }
          transpose<float>(pairs);
          for (int64_t p = 0; p < kTile; ++p) {
            __builtin_memcpy(out + t * kTileElements + p * kStep, &pairs[p], 64);
          }
        }
        continue;
      }
      for (int64_t j = 0; j < columns; ++j) {
        BFloat16* column = out + j / kTile * kTileElements + j % kTile * 2;
        for (int64_t p = 0; p < rows; ++p) {
          column[p / 2 * kStep + p % 2] = block[p * b.row_stride + j * b.col_stride];
        }
      }
    }
  }
}

constexpr GemmKernels amx_kernels() {
  return {2 * kTile, kAmxPanel, kStep,    sizeof(BFloat16), sizeof(float),
          amx_pack,  amx_pack,  amx_gemm, amx_gemm_t};
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
