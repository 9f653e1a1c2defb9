// The elementwise half of a batch-ensemble layer: what happens to one row before and after the
// matrix product.
//
//   forward    u = x r          z = u W^T          h = m act(s z + b)          out = h r'
//   backward   dy = G r' m act'(y)     dz = dy s     dr' += G h     db += dy     ds += dy z     (G
//   = dL/dout)
//
// m is the dropout mask (0 or 1 / (1 - p)), r' the next layer's r. Vectors and sums are
// accumulators (float, or double for float64), whatever the storage format; an absent vector is a
// row of ones (r, s, r', m) or zeros (b), so that no loop asks what is there.
#pragma once

#include <cstdint>

#include "core/dispatch.h"
#include "core/philox.h"

namespace thrifty::ensemble {

enum class Activation : int { kNone, kRelu, kSilu, kGelu, kGeluTanh };

// What one row of a layer is combined with; each [out].
struct LayerRow {
  Activation activation;
  const void* s;
  const void* bias;
  const void* r_next;
  const void* mask;
};

// Sums over rows that backward adds to; each [out], or null when nobody asked.
struct LayerSums {
  void* r_next;
  void* bias;
  void* s;
};

struct RowKernels {
  // operand[n] = x[n] r[n]; `r` may be null
  void (*scale_input)(int64_t n, const void* x, const void* r, void* operand);
  // z[n] = storage(product), out[n] = h r'; z and out may be null; out in the storage format
  void (*finish)(int64_t n, const void* product, const LayerRow& row, void* z, void* out);
  // The same into the next layer's operand
  void (*finish_operand)(int64_t n, const void* product, const LayerRow& row, void* operand);
  // dz[n] as operands from grad[n] and z[n] (null: z is not needed)
  void (*backward)(int64_t n, const void* grad, const void* z, const LayerRow& row, void* dz,
                   const LayerSums& sums);
  // From g[n] = dL/du: dx_sum += g r or dx = g r (either may be null), dr += x g (may be null)
  void (*input_grad)(int64_t n, const void* g, const void* x, const void* r, void* dx, void* dx_sum,
                     void* dr);
  // From d[n], a row of dL/dW of one member before r: dw += d r, dr += w d (w in the storage
  // format)
  void (*weight_grad)(int64_t n, const void* d, const void* w, const void* r, void* dw, void* dr);
  // mask[n] of the row: Dropout's scale where the element is kept, else 0; `column` is a multiple
  // of 64
  void (*dropout_mask)(int64_t n, const Dropout& dropout, uint32_t row, int64_t column, void* mask);
  // sum[n] += from[n], accumulators
  void (*add)(int64_t n, const void* from, void* sum);
  // <operand[n], accumulators[n]> as double
  double (*dot)(int64_t n, const void* operand, const void* vector);
  void (*to_accumulator)(int64_t n, const void* storage, void* accumulator);
  void (*to_storage)(int64_t n, const void* accumulator, void* storage);
};

struct RowTable {
  RowKernels storage[4];  // by Dtype: float32, bfloat16, float16, float64
};

}  // namespace thrifty::ensemble

namespace thrifty {
using EnsembleRowTable = ensemble::RowTable;
}
THRIFTY_ISA_TABLE(EnsembleRowTable, ensemble_rows)
