// The block products of gemm.h for one instruction set.
#include "core/gemm.h"

#include <type_traits>

#include "core/simd_transpose.h"
#if defined(__AMX_BF16__) || defined(THRIFTY_AMX_TWIN)
#include "core/gemm_amx.h"
#endif

namespace thrifty::THRIFTY_ISA {
namespace {

// 2 vectors wide and as tall as the registers allow: 12 of 16 (AVX2) or 24 of 32 (AVX-512) hold
// sums.
constexpr int kTileRows = kSimdBytes == 64 ? 12 : 6;
constexpr int kTileVecs = 2;
// A shorter tile for what is left: the 32 rows of one sample's 32 members take 34 instead of 36.
constexpr int kTailRows = kTileRows * 2 / 3;
template <class T>
constexpr int kPanel = kTileVecs * kLanes<T>;

// c[R, 2 vectors] (+)= sum over p of a[row_stride * i + p_stride * p] * b[p]
template <class T, int R>
THRIFTY_INLINE void tile(int64_t k, const T* a, int64_t row_stride, int64_t p_stride, const T* b,
                         T* c, int64_t ldc, bool add) {
  Vec<T> sum[R][kTileVecs] = {};
  for (int64_t p = 0; p < k; ++p, a += p_stride, b += kPanel<T>) {
    const Vec<T> b0 = load(b), b1 = load(b + kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const Vec<T> ai = splat(a[i * row_stride]);
      sum[i][0] += ai * b0;
      sum[i][1] += ai * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
    for (int v = 0; v < kTileVecs; ++v) {
      T* out = c + i * ldc + v * kLanes<T>;
      store(out, add ? load(out) + sum[i][v] : sum[i][v]);
    }
  }
}

// R rows of A, which is read along rows (p_stride 1) or, for the transposed product, along columns
// (row_stride 1).
template <class T, bool kTransposed, int R>
THRIFTY_INLINE void rows(int64_t k, const T* a, int64_t lda, const T* b, T* c, int64_t ldc,
                         bool add) {
  tile<T, R>(k, a, kTransposed ? 1 : lda, kTransposed ? lda : 1, b, c, ldc, add);
}

template <class T, bool kTransposed>
void multiply(int64_t m, int64_t n, int64_t k, const void* a_data, int64_t lda, const void* panels,
              void* c_data, int64_t ldc, bool add) {
  const T* a = static_cast<const T*>(a_data);
  T* c = static_cast<T*>(c_data);
  for (int64_t p = 0; p < k || p == 0; p += kGemmDepth) {
    const int64_t depth = k - p < kGemmDepth ? k - p : kGemmDepth;
    for (int64_t j = 0; j < n; j += kPanel<T>) {
      const T* panel = static_cast<const T*>(panels) + j * k + p * kPanel<T>;
      const T* from = a + p * (kTransposed ? lda : 1);
      const int64_t step = kTransposed ? 1 : lda;
      const bool sum = add || p > 0;
      int64_t i = 0;
      for (; i + kTailRows < m; i += kTileRows) {
        rows<T, kTransposed, kTileRows>(depth, from + i * step, lda, panel, c + i * ldc + j, ldc,
                                        sum);
      }
      if (i < m) {
        rows<T, kTransposed, kTailRows>(depth, from + i * step, lda, panel, c + i * ldc + j, ldc,
                                        sum);
      }
    }
  }
}

template <class T, class Storage>
THRIFTY_INLINE Vec<T> load_upto(const Storage* p, int64_t n) {
  return n > 0 ? load_part<T>(p, n) : Vec<T>{};
}

// One panel of b whose rows are contiguous: vectors go straight through.
template <class T, class Storage>
void pack_rows(int64_t k, int64_t columns, const Storage* b, int64_t row_stride, T* panel) {
  for (int64_t p = 0; p < k; ++p, b += row_stride, panel += kPanel<T>) {
    for (int v = 0; v < kTileVecs; ++v) {
      const int64_t first = v * kLanes<T>;
      store(panel + first, load_upto<T>(b + first, columns - first));
    }
  }
}

// One panel of b whose columns are contiguous: squares of one vector's lanes are transposed in
// registers.
template <class T, class Storage>
void pack_columns(int64_t k, int64_t columns, const Storage* b, int64_t col_stride, T* panel) {
  for (int v = 0; v < kTileVecs; ++v, b += kLanes<T> * col_stride, columns -= kLanes<T>) {
    T* to = panel + v * kLanes<T>;
    for (int64_t p = 0; p < k; p += kLanes<T>, to += kLanes<T> * kPanel<T>) {
      const int64_t left = k - p;
      Vec<T> square[kLanes<T>];
      for (int j = 0; j < kLanes<T>; ++j) {
        square[j] = j < columns ? load_part<T>(b + j * col_stride + p, left) : Vec<T>{};
      }
      transpose<T>(square);
      for (int i = 0; i < kLanes<T> && i < left; ++i) store(to + i * kPanel<T>, square[i]);
    }
  }
}

// panels[j / nr][p][j % nr] = b(p, j)
template <class T, class Storage>
void pack(int64_t k, int64_t n, MatrixView b, void* panels) {
  const Storage* data = static_cast<const Storage*>(b.data);
  T* panel = static_cast<T*>(panels);
  for (int64_t j = 0; j < n; j += kPanel<T>, panel += k * kPanel<T>) {
    const int64_t columns = n - j < kPanel<T> ? n - j : kPanel<T>;
    if (b.col_stride == 1) {
      pack_rows<T>(k, columns, data + j, b.row_stride, panel);
    } else {
      pack_columns<T>(k, columns, data + j * b.col_stride, b.col_stride, panel);
    }
  }
}

template <class T, class Storage>
constexpr GemmKernels kernels() {
  return {kTileRows,  kPanel<T>,          1,
          sizeof(T),  sizeof(T),          pack<T, Storage>,
          pack<T, T>, multiply<T, false>, multiply<T, true>};
}

}  // namespace

extern const GemmTable gemm_table{{
    kernels<float, float>(),
#if defined(__AMX_BF16__) || defined(THRIFTY_AMX_TWIN)
    amx_kernels(),
#else
    kernels<float, BFloat16>(),
#endif
    kernels<float, Float16>(),
    kernels<double, double>(),
}};

}  // namespace thrifty::THRIFTY_ISA
