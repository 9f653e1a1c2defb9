#include <algorithm>

#include "core/error.h"
#include "moe/grouped_mm.h"

namespace thrifty::moe {
namespace {

const std::string kOp = "grouped_mm";

int64_t integer(const Array& a, int64_t i) {
  return a.dtype == Dtype::kInt64 ? static_cast<const int64_t*>(a.data)[i]
                                  : static_cast<const int32_t*>(a.data)[i];
}

void check_integers(const char* name, const Array& a) {
  THRIFTY_CHECK(a.dtype == Dtype::kInt32 || a.dtype == Dtype::kInt64, kOp, ": ", name,
                ": expected int32 or int64, got ", dtype_name(a.dtype));
  THRIFTY_CHECK(a.ndim == 1, kOp, ": ", name, ": expected one dimension, got ", shape_text(a));
}

void check_matrix(const char* name, const Array& m, bool rank) {
  THRIFTY_CHECK(is_floating(m.dtype), kOp, ": ", name,
                ": expected float32, bfloat16, float16 or float64, got ", dtype_name(m.dtype));
  THRIFTY_CHECK(rank, kOp, ": ", name, ": expected 2 dimensions", name[0] == 'b' ? " or 3" : "",
                ", got ", shape_text(m));
}

// End offsets, rising from 0 to at most `end`, with a leading 0.
std::vector<int32_t> offsets(const Array& offs, int64_t end) {
  std::vector<int32_t> all{0};
  for (int64_t e = 0; e < offs.shape[0]; ++e) {
    const int64_t value = integer(offs, e);
    THRIFTY_CHECK(value >= all.back() && value <= end, kOp,
                  ": offs: expected numbers that rise from 0 to at most ", end, ", got ", value,
                  " after ", all.back());
    all.push_back(int32_t(value));
  }
  return all;
}

void check_rows_of_a(const GroupedMmArgs& args, GroupedMm& product) {
  const int64_t rows = args.a.shape[0];
  product.rows = args.a_idx ? args.a_idx.shape[0] : rows;
  if (!args.a_idx || args.on_device) return;
  for (int64_t r = 0; r < product.rows; ++r) {
    const int64_t at = integer(args.a_idx, r);
    THRIFTY_CHECK(at >= 0 && at < rows, kOp, ": a_idx: expected rows of a below ", rows, ", got ",
                  at, " at ", r);
  }
}

void check_extras(const GroupedMmArgs& args, GroupedMm& product) {
  const Dtype dtype = args.a.dtype;
  const auto check = [&](const char* name, const Array& a, std::vector<int64_t> shape) {
    if (!a) return;
    Array want;
    want.ndim = int(shape.size());
    std::copy(shape.begin(), shape.end(), want.shape.begin());
    THRIFTY_CHECK(a.ndim == want.ndim && a.shape == want.shape, kOp, ": ", name,
                  ": expected shape ", shape_text(want), ", got ", shape_text(a));
    const bool added = &a == &args.added;
    THRIFTY_CHECK(a.dtype == dtype || (!added && is_half(dtype) && a.dtype == Dtype::kFloat32), kOp,
                  ": ", name, ": expected ", dtype_name(dtype), " like a",
                  !added && is_half(dtype) ? " or float32" : "", ", got ", dtype_name(a.dtype));
    THRIFTY_CHECK(!product.by_depth, kOp, ": ", name, ": expected None for 2d x 2d, got ",
                  shape_text(a));
  };
  check("bias", args.bias, {product.groups(), product.n});
  check("row_scale", args.row_scale, {product.rows});
  check("accumulate", args.added, {product.rows, product.n});
}

}  // namespace

GroupedMm check_grouped_mm(const GroupedMmArgs& args) {
  const Array &a = args.a, &b = args.b;
  constexpr int64_t kMax = (int64_t(1) << 31) - 1;
  check_matrix("a", a, a.ndim == 2);
  check_matrix("b", b, b.ndim == 2 || b.ndim == 3);
  THRIFTY_CHECK(b.dtype == a.dtype, kOp, ": b: expected ", dtype_name(a.dtype), " like a, got ",
                dtype_name(b.dtype));
  THRIFTY_CHECK(!args.float32_out || is_half(a.dtype) || a.dtype == Dtype::kFloat32, kOp,
                ": out_dtype: expected None for float64, got float32");
  check_integers("offs", args.offs);
  if (args.a_idx) check_integers("a_idx", args.a_idx);
  GroupedMm product;
  product.a = a, product.b = b, product.offs = args.offs, product.a_idx = args.a_idx,
  product.bias = args.bias;
  product.row_scale = args.row_scale, product.added = args.added;
  product.by_depth = b.ndim == 2;
  product.out_dtype = args.float32_out ? Dtype::kFloat32 : a.dtype;
  product.n = b.size(-1);
  const int64_t grouped = product.by_depth ? a.shape[1] : a.shape[0];
  THRIFTY_CHECK(grouped <= kMax, kOp, ": a: expected fewer than 2^31 rows in groups, got ",
                shape_text(a));
  THRIFTY_CHECK(product.n >= 1 && a.shape[product.by_depth ? 0 : 1] >= 1, kOp,
                ": a: expected sizes of at least 1 beside the groups, got ", shape_text(a), " and ",
                shape_text(b));
  if (product.by_depth) {
    THRIFTY_CHECK(b.shape[0] == grouped, kOp, ": b: expected shape (S, N) with S = ", grouped,
                  ", got ", shape_text(b));
    THRIFTY_CHECK(!args.a_idx, kOp, ": a_idx: expected None for 2d x 2d, got ",
                  shape_text(args.a_idx));
    product.rows = a.shape[0], product.k = grouped;
    if (!args.on_device) product.offsets = offsets(args.offs, grouped);
  } else {
    THRIFTY_CHECK(b.shape[0] == args.offs.shape[0] && b.shape[1] == a.shape[1], kOp,
                  ": b: expected shape (E, K, N) with E = ", args.offs.shape[0],
                  " groups and K = ", a.shape[1], ", got ", shape_text(b));
    check_rows_of_a(args, product);
    THRIFTY_CHECK(product.rows <= kMax, kOp, ": a_idx: expected fewer than 2^31 rows, got ",
                  product.rows);
    product.k = a.shape[1];
    if (!args.on_device) product.offsets = offsets(args.offs, product.rows);
  }
  check_extras(args, product);
  return product;
}

}  // namespace thrifty::moe
