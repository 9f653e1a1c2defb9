// The block products of gemm.h on every instruction set, for both layouts of B and all storage
// formats.
//
// Most tests use multiples of 1/4, whose sums are exact, so results equal the reference to the bit;
// everything that gemm.h calls unspecified is NaN, so a kernel that uses it shows.
#include "check.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

constexpr int64_t kSizes[] = {1, 2, 5, 6, 7, 12, 13, 16, 17, 31, 32, 33, 95, 96, 100, 257, 600};
constexpr int64_t kCount = std::size(kSizes);

// a [m, k], b [k, n] and c [m, n], row by row.
struct Matrices {
  int64_t m, n, k;
  std::vector<double> a, b, c, product;

  template <class Value>
  Matrices(int64_t m, int64_t n, int64_t k, const Value& value)
      : m(m), n(n), k(k), a(size_t(m * k)), b(size_t(k * n)), c(size_t(m * n)), product(c.size()) {
    for (auto* matrix : {&a, &b, &c}) {
      for (double& v : *matrix) v = value();
    }
    multiply();
  }

  void multiply() {
    std::fill(product.begin(), product.end(), 0.0);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t p = 0; p < k; ++p) {
        for (int64_t j = 0; j < n; ++j) {
          product[size_t(i * n + j)] += a[size_t(i * k + p)] * b[size_t(p * n + j)];
        }
      }
    }
  }
};

// How a product is called.
struct Call {
  bool transposed = false;         // gemm_t
  bool add = false;                // to what C holds
  bool operand = false;            // B in the operand format: pack_operand
  bool columns = false;            // B's columns are contiguous
  int64_t row_block = 1 << 20;     // rows of C per call
  int64_t column_block = 1 << 20;  // columns of C per call, a multiple of nr
};

Guarded pack(const GemmKernels& gemm, Dtype storage, const Matrices& x, const Call& call) {
  const int64_t row_stride = call.columns ? 1 : x.n + 3, col_stride = call.columns ? x.k + 3 : 1;
  const int64_t span = x.k * x.n == 0 ? 0 : (x.k - 1) * row_stride + (x.n - 1) * col_stride + 1;
  Guarded b(call.operand ? operand_dtype(gemm) : storage, span);
  for (int64_t p = 0; p < x.k; ++p) {
    for (int64_t j = 0; j < x.n; ++j) {
      b.set(p * row_stride + j * col_stride, x.b[size_t(p * x.n + j)]);
    }
  }
  Guarded panels(Dtype::kUInt8, gemm.panels_bytes(x.k, x.n));
  (call.operand ? gemm.pack_operand : gemm.pack)(x.k, x.n, {b.data(), row_stride, col_stride},
                                                 panels.data());
  EXPECT(panels.intact(), "k = ", x.k, ", n = ", x.n);
  return panels;
}

// A as scratch of which the kernel may read what gemm.h says: m_end rows of lda, or columns.
Guarded scratch_a(const GemmKernels& gemm, const Matrices& x, bool transposed, int64_t m_end,
                  int64_t lda) {
  const int64_t depth_end = round_up(x.k, gemm.depth);
  Guarded a(operand_dtype(gemm), (transposed ? depth_end : m_end) * lda);
  for (int64_t i = 0; i < x.m; ++i) {
    for (int64_t p = 0; p < depth_end; ++p) {
      const double padding = transposed ? 7.0 : 0.0;  // gemm_t: any finite value
      a.set(transposed ? p * lda + i : i * lda + p, p < x.k ? x.a[size_t(i * x.k + p)] : padding);
    }
  }
  if (transposed) {  // finite rows beyond k, also beside the m columns in use
    for (int64_t p = x.k * lda; p < depth_end * lda; ++p) a.set(p, 7.0);
  }
  return a;
}

// C [m, n] as the kernels leave it.
Guarded multiply(const GemmKernels& gemm, Dtype storage, const Matrices& x, const Call& call) {
  Guarded panels = pack(gemm, storage, x, call);
  const int64_t last = x.m == 0 ? 0 : (x.m - 1) / call.row_block * call.row_block;
  const int64_t m_end = last + round_up(x.m - last, gemm.mr);
  const int64_t lda = round_up(call.transposed ? m_end : x.k, gemm.depth);
  const int64_t ldc = round_up(x.n, gemm.nr);
  Guarded a = scratch_a(gemm, x, call.transposed, m_end, lda);
  Guarded c(accumulator_dtype(gemm), round_up(x.m, gemm.mr) * ldc);
  Guarded result(c.dtype(), x.m * x.n);
  for (int64_t i = 0; i < x.m; i += call.row_block) {
    const int64_t rows = std::min(call.row_block, x.m - i);
    for (int64_t j = 0; j < x.n; j += call.column_block) {
      const int64_t columns = std::min(call.column_block, x.n - j);
      c.fill_nan();
      for (int64_t e = 0; call.add && e < rows * columns; ++e) {
        c.set(e / columns * ldc + e % columns,
              x.c[size_t((i + e / columns) * x.n + j + e % columns)]);
      }
      (call.transposed ? gemm.gemm_t : gemm.gemm)(
          rows, columns, x.k, a.at(call.transposed ? i : i * lda), lda,
          static_cast<char*>(panels.data()) + j / gemm.nr * gemm.panel_bytes(x.k), c.data(), ldc,
          call.add);
      EXPECT(c.intact(), "m = ", x.m, ", n = ", x.n, ", k = ", x.k);
      for (int64_t e = 0; e < rows * columns; ++e) {
        result.set((i + e / columns) * x.n + j + e % columns, c[e / columns * ldc + e % columns]);
      }
    }
  }
  return result;
}

template <class Body>
void for_all_kernels(const Body& body) {
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : kStorageDtypes) {
      body(tables.isa, dtype, tables.gemm.storage[int(dtype)]);
    }
  }
}

void expect_exact(const char* isa, Dtype dtype, const GemmKernels& gemm, const Matrices& x,
                  const Call& call) {
  const Guarded c = multiply(gemm, dtype, x, call);
  for (int64_t e = 0; e < c.size(); ++e) {
    const double want = x.product[size_t(e)] + (call.add ? x.c[size_t(e)] : 0);
    if (c[e] == want) continue;
    EXPECT(c[e] == want, isa, " ", dtype_name(dtype), call.transposed ? " gemm_t" : " gemm",
           call.add ? " add" : "", call.columns ? " columns" : "", call.operand ? " operand" : "",
           ", m = ", x.m, ", n = ", x.n, ", k = ", x.k, ", element ", e, ": got ", c[e], ", want ",
           want);
    return;
  }
}

// A Latin square: each pair of sizes for (m, n), (m, k) and (n, k) once, large ones with small.
void sizes() {
  Random random(1);
  for (int64_t i = 0; i < kCount; ++i) {
    for (int64_t j = 0; j < kCount; ++j) {
      const Matrices x(kSizes[i], kSizes[j], kSizes[(2 * kCount - 2 - i - j) % kCount],
                       [&] { return random.quarter(); });
      const uint64_t bits = random.bits();
      for_all_kernels([&](const char* isa, Dtype dtype, const GemmKernels& gemm) {
        for (const bool transposed : {false, true}) {
          expect_exact(isa, dtype, gemm, x,
                       {transposed, bool(bits & 1), bool(bits & 2), bool(bits & 4)});
        }
      });
    }
  }
}

// Both packs and both layouts for each (k, n).
void packing() {
  Random random(2);
  for (const int64_t k : kSizes) {
    for (const int64_t n : kSizes) {
      const Matrices x(2, n, k, [&] { return random.quarter(); });
      for_all_kernels([&](const char* isa, Dtype dtype, const GemmKernels& gemm) {
        for (int bits = 0; bits < 4; ++bits) {
          expect_exact(isa, dtype, gemm, x, {false, false, bool(bits & 1), bool(bits & 2)});
        }
      });
    }
  }
}

// A sum over nothing is zero, and a product without rows or columns touches nothing.
void empty() {
  Random random(3);
  const int64_t shapes[][3] = {{13, 33, 0}, {0, 33, 5}, {13, 0, 5}};
  for (const auto& shape : shapes) {
    const Matrices x(shape[0], shape[1], shape[2], [&] { return random.quarter(); });
    for_all_kernels([&](const char* isa, Dtype dtype, const GemmKernels& gemm) {
      for (int bits = 0; bits < 4; ++bits) {
        expect_exact(isa, dtype, gemm, x, {bool(bits & 1), bool(bits & 2)});
      }
    });
  }
}

// Real numbers: twice the bound for a sum of k products in any order (Higham, Accuracy and
// Stability, section 3.1), and the same bits however rows and columns are cut.
void blocks_and_rounding() {
  Random random(4);
  constexpr int64_t m = 100, n = 101, k = 600;
  for (const Dtype dtype : kStorageDtypes) {
    const Matrices x(m, n, k, [&] { return rounded(dtype, random.uniform(-1, 1)); });
    Matrices absolute(x);
    for (auto* matrix : {&absolute.a, &absolute.b}) {
      for (double& v : *matrix) v = std::fabs(v);
    }
    absolute.multiply();
    for (const Tables& tables : all_tables()) {
      const GemmKernels& gemm = tables.gemm.storage[int(dtype)];
      const double unit = gemm.accumulator_size == 8 ? 0x1p-53 : 0x1p-24;
      for (const bool transposed : {false, true}) {
        const Guarded whole = multiply(gemm, dtype, x, {.transposed = transposed});
        for (int64_t e = 0; e < whole.size(); ++e) {
          EXPECT(std::fabs(whole[e] - x.product[size_t(e)]) <=
                     2 * k * unit * absolute.product[size_t(e)],
                 tables.isa, " ", dtype_name(dtype), transposed ? " gemm_t" : " gemm", " element ",
                 e);
        }
        for (const int64_t rows : {3, 13, 96}) {
          const Call call{.transposed = transposed, .row_block = rows, .column_block = 64};
          EXPECT(multiply(gemm, dtype, x, call).same_bytes(whole), tables.isa, " ",
                 dtype_name(dtype), transposed ? " gemm_t" : " gemm", " blocks of ", rows);
        }
      }
    }
  }
}

// What the layers above rely on (gemm.h, blocks.h).
void geometry() {
  for_all_kernels([](const char* isa, Dtype dtype, const GemmKernels& gemm) {
    EXPECT(96 % gemm.mr == 0 && 64 % gemm.nr == 0, isa);
    EXPECT(32 % gemm.depth == 0 && 32 % gemm.nr == 0, isa);
    EXPECT((gemm.accumulator_size == 8) == (dtype == Dtype::kFloat64), isa);
    EXPECT(gemm.operand_size == gemm.accumulator_size || dtype == Dtype::kBFloat16, isa);
  });
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"geometry", geometry},
                    {"packing", packing},
                    {"sizes", sizes},
                    {"empty", empty},
                    {"blocks and rounding", blocks_and_rounding}});
}
