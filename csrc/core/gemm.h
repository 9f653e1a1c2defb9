// Block matrix products that stay in cache: the building block of the dense kernels.
//
//   gemm:    C (+)= A B     A [m, k] scratch, B [k, n] packed panels, C [m, n] accumulators
//   gemm_t:  C (+)= A^T B   A [k, m] scratch
//
// B is packed once into zero-padded panels of `nr` columns and read by every row block; A is
// row-major scratch that the caller has just computed, so nothing is packed for it. The tile kernel
// keeps mr x nr sums in registers over kGemmDepth steps of k (BLIS: van Zee and van de Geijn,
// 2015), so the panel in use fits the first-level cache. Each element of C is summed over k in one
// fixed order: results do not depend on how rows are split into blocks.
//
// Scratch rules. A has rows of `lda` operands, lda a multiple of `depth` >= the row's length; gemm
// needs round_up(m, mr) rows and zeros between k and round_up(k, depth); gemm_t needs round_up(k,
// depth) rows, finite ones beyond k, and lda >= round_up(m, mr). C has round_up(m, mr) rows of ldc
// >= round_up(n, nr). What lies beyond m and n is unspecified.
#pragma once

#include <cstdint>

#include "core/dispatch.h"
#include "core/dtype.h"
#include "core/scratch.h"

namespace thrifty {

// 256 steps of a 16-column float panel are 16 KB, half of the smallest first-level cache in use.
static constexpr int64_t kGemmDepth = 256;

// Element (i, j) is data[i * row_stride + j * col_stride]; one of the strides is 1.
struct MatrixView {
  const void* data;
  int64_t row_stride, col_stride;
};

// The kernels for one storage format. Operands are what A and the panels hold: float, double, or
// bfloat16 when AMX multiplies; accumulators are float, or double for float64.
struct GemmKernels {
  int64_t mr, nr, depth;
  int64_t operand_size, accumulator_size;                          // bytes
  void (*pack)(int64_t k, int64_t n, MatrixView b, void* panels);  // b in the storage format
  void (*pack_operand)(int64_t k, int64_t n, MatrixView b, void* panels);  // b is operands
  void (*gemm)(int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* panels,
               void* c, int64_t ldc, bool add);
  void (*gemm_t)(int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* panels,
                 void* c, int64_t ldc, bool add);

  int64_t panel_bytes(int64_t k) const { return round_up(k, depth) * nr * operand_size; }
  int64_t panels_bytes(int64_t k, int64_t n) const { return ceil_div(n, nr) * panel_bytes(k); }
};

struct GemmTable {
  GemmKernels storage[4];  // by Dtype: float32, bfloat16, float16, float64
};

}  // namespace thrifty

THRIFTY_ISA_TABLE(GemmTable, gemm_table)
