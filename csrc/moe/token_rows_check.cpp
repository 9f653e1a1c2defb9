#include "core/error.h"
#include "moe/token_rows.h"

namespace thrifty::moe {
namespace {

constexpr int64_t kMaxLength = (int64_t(1) << 31) - 2;

int64_t leading(const Array& a, int dims) {
  int64_t product = 1;
  for (int d = 0; d < dims; ++d) product *= a.shape[size_t(d)];
  return product;
}

bool same_leading(const Array& a, const Array& b, int dims) {
  for (int d = 0; d < dims; ++d) {
    if (a.shape[size_t(d)] != b.shape[size_t(d)]) return false;
  }
  return true;
}

// x [..., S, D] with index [..., k]
TokenRowsOp check_rows(const char* op, const Array& x, const Array& index, const Array& weights) {
  THRIFTY_CHECK(is_floating(x.dtype), op, ": x: expected a floating dtype, got ",
                dtype_name(x.dtype));
  THRIFTY_CHECK(x.ndim >= 2 && x.size(-2) <= kMaxLength, op,
                ": x: expected shape (..., S, D) with S < 2^31 - 1, got ", shape_text(x));
  THRIFTY_CHECK(index.dtype == Dtype::kInt32 || index.dtype == Dtype::kInt64, op,
                ": index: expected int32 or int64, got ", dtype_name(index.dtype));
  const int lead = x.ndim - 2;
  THRIFTY_CHECK(index.ndim == lead + 1 && same_leading(x, index, lead), op,
                ": index: expected shape (..., k) with the leading sizes of x ", shape_text(x),
                ", got ", shape_text(index));
  THRIFTY_CHECK(index.size(-1) <= kMaxLength, op, ": index: expected k < 2^31 - 1, got ",
                shape_text(index));
  if (weights) {
    THRIFTY_CHECK(weights.dtype == x.dtype || weights.dtype == Dtype::kFloat32, op,
                  ": weights: expected x's dtype ", dtype_name(x.dtype), " or float32, got ",
                  dtype_name(weights.dtype));
    THRIFTY_CHECK(weights.ndim == index.ndim && weights.shape == index.shape, op,
                  ": weights: expected the shape of index ", shape_text(index), ", got ",
                  shape_text(weights));
  }
  return {x, index, {}, weights, leading(x, lead), x.size(-2), index.size(-1), x.size(-1)};
}

}  // namespace

TokenTopk check_token_topk(const Array& scores, int64_t k) {
  THRIFTY_CHECK(is_floating(scores.dtype), "token_topk: scores: expected a floating dtype, got ",
                dtype_name(scores.dtype));
  THRIFTY_CHECK(scores.ndim >= 1 && scores.size(-1) <= kMaxLength,
                "token_topk: scores: expected shape (..., S) with S < 2^31 - 1, got ",
                shape_text(scores));
  const int64_t length = scores.size(-1);
  THRIFTY_CHECK(k >= 0 && k <= length, "token_topk: k: expected 0 to S = ", length, ", got ", k);
  return {scores, leading(scores, scores.ndim - 1), length, k};
}

TokenRowsOp check_gather_rows(const Array& x, const Array& index, const Array& weights) {
  return check_rows("gather_rows", x, index, weights);
}

TokenRowsOp check_scatter_add_rows(const Array& x, const Array& index, const Array& src,
                                   const Array& weights) {
  constexpr const char* kOp = "scatter_add_rows";
  TokenRowsOp op = check_rows(kOp, x, index, weights);
  THRIFTY_CHECK(src.dtype == x.dtype, kOp, ": src: expected x's dtype ", dtype_name(x.dtype),
                ", got ", dtype_name(src.dtype));
  THRIFTY_CHECK(
      src.ndim == x.ndim && same_leading(index, src, index.ndim) && src.size(-1) == op.width, kOp,
      ": src: expected one row of ", op.width, " for each of index ", shape_text(index), ", got ",
      shape_text(src));
  op.src = src;
  return op;
}

}  // namespace thrifty::moe
