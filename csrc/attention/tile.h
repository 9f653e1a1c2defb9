// The elementwise half of attention on tiles that are in cache; core/gemm.h does the products.
//
// A tile is up to kTileRows queries against blocks of columns, which are sorted keys or entries of
// a list. Scores become x = scale s + logw + q2 var, and one online softmax runs over all blocks:
//
//   m' = max(m, max x)    p = left e^(x - m')
//   l' = l e^(m - m') + sum p               acc' = acc e^(m - m') + p v
//
// An entry of a list may stand for sorted keys [at, at_end), and `left` is the part of them that
// the row's own window [window, window_end) does not hold; it is 1 elsewhere, and 0 hides the
// entry. A row reads columns [begin, end) of a block; elsewhere p is 0, which leaves sums and
// accumulators their bits. So a row does not depend on the rows that share its tile.
#pragma once

#include <cstdint>

#include "core/dispatch.h"

namespace thrifty::attention {

constexpr int64_t kTileRows = 96;  // of every height that core/gemm.h multiplies with a multiple
constexpr int64_t kTileColumns = 256;  // kGemmDepth: one sum over keys per block

// T: sums, O: operands of the product, as in core/gemm.h.
struct ScoreBlock {
  int64_t rows, columns, padded;  // padded: the columns of p that the product reads
  void* s;                        // T [rows, ld]: q . k, scratch afterwards
  int64_t ld;
  void* p;  // O [rows, p_ld]; may be s where O is T
  int64_t p_ld;
  double scale;
  const int32_t *begin, *end;  // [rows]
  // A list's columns; logw null: these are keys.
  const void *logw, *var, *q2;         // T [columns], [columns], [rows]; var null: none
  const int32_t *at, *at_end;          // [columns]
  const void* share;                   // T [columns]: 1 / (at_end - at)
  const int32_t *window, *window_end;  // [rows]
};

struct SoftmaxState {
  void *max, *sum;  // T [rows]
  void* acc;        // T [rows, ld], rescaled over `columns`
  int64_t ld, columns;
};

struct GradBlock {
  const void* dp;           // T [rows, block.ld]: dout . v
  const void *lse, *delta;  // T [rows]; ds = p (dp - delta)
  void* ds;                 // O [rows, p_ld]; may be dp where O is T
  void *dlogw, *dvar;       // T [columns], added to: sum ds, sum q2 ds; null: not wanted
  void* dq2;                // T [rows], added to: sum var ds
};

struct TileKernels {
  // operand[i, ld] = row index[i] (i where index is null) of `base`, zeros behind its columns
  void (*gather)(int64_t rows, int64_t columns, const void* base, int64_t stride,
                 const int32_t* index, void* operand, int64_t ld);
  void (*softmax)(const ScoreBlock& block, const SoftmaxState& state);
  void (*softmax_grad)(const ScoreBlock& block, const GradBlock& grad);
  // stored[n] = factor sums[n]; sums[n] = stored[n]
  void (*narrow)(int64_t n, const void* sums, double factor, void* stored);
  void (*widen)(int64_t n, const void* stored, void* sums);
  void (*to_operand)(int64_t n, const void* sums, void* operand);
  // sums[n] += factor from[n]
  void (*add_stored)(int64_t n, double factor, const void* stored, void* sums);
  void (*add_operand)(int64_t n, double factor, const void* operand, void* sums);
  void (*add)(int64_t n, double factor, const void* from, void* sums);
  // acc[i] += sum over p[i, j] != 0 of p[i, j] v[j]: the product where v has values that are not
  // finite, which rows that do not look at them must not see
  void (*sparse_product)(int64_t rows, int64_t columns, int64_t width, const void* p, int64_t p_ld,
                         const void* v, int64_t v_ld, void* acc, int64_t ld);
  bool (*finite)(int64_t n, const void* operand);
  // a . b over n, storage format and sums
  double (*dot_stored)(int64_t n, const void* a, const void* b);
  double (*dot)(int64_t n, const void* a, const void* b);
};

constexpr int64_t kFarthestColumns = 64;

struct TileTable {
  TileKernels storage[4];  // by Dtype: float32, bfloat16, float16, float64
  // ids[i] = the first column c with the largest s[i, c] - bias[c] (float)
  void (*argmax)(int64_t rows, int64_t columns, const float* s, int64_t ld, const float* bias,
                 int32_t* ids);
  // nearness[j] = max(nearness[j], row . column j) for columns in `blocks` blocks
  // [d, kFarthestColumns]; returns the first column of the least nearness.
  int64_t (*farthest)(int64_t d, int64_t blocks, const float* x, const float* row, float* nearness);
};

}  // namespace thrifty::attention

namespace thrifty {
using AttentionTileTable = attention::TileTable;
}
THRIFTY_ISA_TABLE(AttentionTileTable, attention_tiles)
