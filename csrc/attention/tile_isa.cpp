// The tile kernels of tile.h for one instruction set.
#include "attention/tile.h"

#include <type_traits>

#include "core/gemm.h"
#include "core/simd_math.h"

namespace thrifty::THRIFTY_ISA {
namespace {

using attention::GradBlock;
using attention::ScoreBlock;
using attention::SoftmaxState;
using attention::TileKernels;

// T: sums, S: storage, O: operand (BFloat16 where AMX multiplies, otherwise T)

template <class T>
THRIFTY_INLINE T sum_of(Vec<T> v) {
  T sum = v[0];
  for (int l = 1; l < kLanes<T>; ++l) sum += v[l];
  return sum;
}

template <class T>
THRIFTY_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <class T>
THRIFTY_INLINE IVec<T> lane_numbers() {
  IVec<T> v;
  for (int l = 0; l < kLanes<T>; ++l) v[l] = l;
  return v;
}

template <class T>
constexpr T kInfinity = T(__builtin_inf());

// Numbers of sorted keys as integers of T's size.
template <class T>
THRIFTY_INLINE IVec<T> load_ints(const int32_t* p) {
  if constexpr (sizeof(T) == sizeof(int32_t)) {
    return load<int32_t>(p);
  } else {
    IVec<T> v;
    for (int l = 0; l < kLanes<T>; ++l) v[l] = p[l];
    return v;
  }
}

template <class T, class S, class O>
struct Tiles {
  // The scores of one row, for vectors of columns that start at i; -infinity where it does not
  // look.
  struct Row {
    const T *s, *logw, *var, *share;
    const int32_t *at, *at_end;
    Vec<T> scale, q2;
    int64_t begin, end, first, last;  // columns; the same in whole vectors
    IVec<T> window, window_end;
    bool listed;

    // A row's window may lie before the block, or begin behind it.
    static THRIFTY_INLINE int64_t within(int64_t column, int64_t columns) {
      const int64_t low = column > 0 ? column : 0;
      return low < columns ? low : columns;
    }

    THRIFTY_INLINE Row(const ScoreBlock& b, int64_t r)
        : s(static_cast<const T*>(b.s) + r * b.ld),
          logw(static_cast<const T*>(b.logw)),
          var(static_cast<const T*>(b.var)),
          share(static_cast<const T*>(b.share)),
          at(b.at),
          at_end(b.at_end),
          scale(splat(T(b.scale))),
          q2{},
          begin(within(b.begin[r], b.columns)),
          end(within(b.end[r], b.columns)),
          window{},
          window_end{},
          listed(b.logw != nullptr) {
      if (end < begin) end = begin;
      first = begin / kLanes<T> * kLanes<T>;
      last = end > begin ? (end + kLanes<T> - 1) / kLanes<T> * kLanes<T> : first;
      if (var != nullptr) q2 = splat(static_cast<const T*>(b.q2)[r]);
      if (listed) {
        window = IVec<T>{} + typename IntOf<T>::type(b.window[r]);
        window_end = IVec<T>{} + typename IntOf<T>::type(b.window_end[r]);
      }
    }

    THRIFTY_INLINE Vec<T> inside(Vec<T> x, int64_t i) const {
      const IVec<T> column = lane_numbers<T>() + typename IntOf<T>::type(i);
      const IVec<T> out =
          (column < typename IntOf<T>::type(begin)) | (column >= typename IntOf<T>::type(end));
      return out ? splat(-kInfinity<T>) : x;
    }

    THRIFTY_INLINE Vec<T> key(int64_t i) const { return load(s + i) * scale; }

    THRIFTY_INLINE Vec<T> left(int64_t i) const {
      const IVec<T> low = load_ints<T>(at + i), high = load_ints<T>(at_end + i);
      const IVec<T> from = low > window ? low : window;
      const IVec<T> covered = (high < window_end ? high : window_end) - from;
      const Vec<T> part = __builtin_convertvector(covered, Vec<T>) * load(share + i);
      return covered > 0 ? T(1) - part : splat(T(1));
    }

    THRIFTY_INLINE Vec<T> entry(int64_t i, Vec<T> part) const {
      Vec<T> x = load(s + i) * scale + load(logw + i);
      if (var != nullptr) x += q2 * load(var + i);
      return part > T(0) ? x : splat(-kInfinity<T>);
    }

    // Visits every vector of the row: where, the scores, and what is left of each column.
    template <class Body>
    THRIFTY_INLINE void each(const Body& body) const {
      if (first == last) return;
      const Vec<T> one = splat(T(1));
      if (listed) {
        for (int64_t i = first; i < last; i += kLanes<T>) {
          const Vec<T> part = left(i);
          body(i, inside(entry(i, part), i), part);
        }
        return;
      }
      body(first, inside(key(first), first), one);
      int64_t i = first + kLanes<T>;
      for (; i + kLanes<T> < last; i += kLanes<T>) body(i, key(i), one);
      if (i < last) body(i, inside(key(i), i), one);
    }
  };

  static THRIFTY_INLINE void clear(O* p, int64_t begin, int64_t end) {
    if (begin < end) __builtin_memset(p + begin, 0, size_t(end - begin) * sizeof(O));
  }

  static void softmax(const ScoreBlock& b, const SoftmaxState& state) {
    for (int64_t r = 0; r < b.rows; ++r) {
      const Row row(b, r);
      T* x = static_cast<T*>(b.s) + r * b.ld;
      O* p = static_cast<O*>(b.p) + r * b.p_ld;
      T& max = static_cast<T*>(state.max)[r];
      T& sum = static_cast<T*>(state.sum)[r];
      Vec<T> top = splat(-kInfinity<T>);
      row.each([&](int64_t i, Vec<T> v, Vec<T>) __attribute__((always_inline)) {
        store(x + i, v);
        top = larger<T>(v, top);
      });
      T next = max;
      for (int l = 0; l < kLanes<T>; ++l) next = top[l] > next ? top[l] : next;
      const T base = next == -kInfinity<T> ? T(0) : next;
      Vec<T> total{};
      for (int64_t i = row.first; i < row.last; i += kLanes<T>) {
        Vec<T> e = exp(load(x + i) - base);
        if (row.listed) e *= row.left(i);
        total += e;
        Stored<T, O>::store(p + i, e);
      }
      clear(p, 0, row.first);
      clear(p, row.last, b.padded);
      if (next != max) {
        const T factor = exp(splat(max - base))[0];
        sum *= factor;
        T* acc = static_cast<T*>(state.acc) + r * state.ld;
        for (int64_t i = 0; i < state.columns; i += kLanes<T>) {
          store(acc + i, load(acc + i) * factor);
        }
        max = next;
      }
      sum += sum_of<T>(total);
    }
  }

  static void softmax_grad(const ScoreBlock& b, const GradBlock& g) {
    for (int64_t r = 0; r < b.rows; ++r) {
      const Row row(b, r);
      O* p = static_cast<O*>(b.p) + r * b.p_ld;
      O* ds = static_cast<O*>(g.ds) + r * b.p_ld;
      const T* dp = static_cast<const T*>(g.dp) + r * b.ld;
      const T lse = static_cast<const T*>(g.lse)[r];
      const Vec<T> delta = splat(static_cast<const T*>(g.delta)[r]);
      const Vec<T> base = splat(lse == -kInfinity<T> ? T(0) : lse);
      T *dlogw = static_cast<T*>(g.dlogw), *dvar = static_cast<T*>(g.dvar);
      Vec<T> dq2{};
      row.each([&](int64_t i, Vec<T> x, Vec<T> left) __attribute__((always_inline)) {
        const Vec<T> e = exp(x - base) * left;
        Vec<T> d = e * (load(dp + i) - delta);
        d = e == T(0) ? Vec<T>{} : d;  // what is masked may stand for an infinite value
        if (row.listed && dlogw != nullptr) {
          store(dlogw + i, load(dlogw + i) + d);
          if (row.var != nullptr) {
            store(dvar + i, load(dvar + i) + d * row.q2);
            dq2 += d * load(row.var + i);
          }
        }
        Stored<T, O>::store(p + i, e);
        Stored<T, O>::store(ds + i, d);
      });
      clear(p, 0, row.first), clear(ds, 0, row.first);
      clear(p, row.last, b.padded), clear(ds, row.last, b.padded);
      if (row.var != nullptr && g.dq2 != nullptr) static_cast<T*>(g.dq2)[r] += sum_of<T>(dq2);
    }
  }

  static void gather(int64_t rows, int64_t columns, const void* base, int64_t stride,
                     const int32_t* index, void* operand, int64_t ld) {
    O* out = static_cast<O*>(operand);
    for (int64_t i = 0; i < rows; ++i, out += ld) {
      const S* from = static_cast<const S*>(base) + (index == nullptr ? i : index[i]) * stride;
      if constexpr (std::is_same_v<S, O>) {
        __builtin_memcpy(out, from, size_t(columns) * sizeof(O));
      } else {
        for_vectors<T>(columns, [&](int64_t j, int64_t left) __attribute__((always_inline)) {
          store_part<T>(out + j, load_part<T>(from + j, left), left);
        });
      }
      clear(out, columns, ld);
    }
  }

  static void narrow(int64_t n, const void* sums, double factor, void* stored) {
    const T* from = static_cast<const T*>(sums);
    S* to = static_cast<S*>(stored);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(to + i, load_part<T>(from + i, left) * T(factor), left);
    });
  }

  static void widen(int64_t n, const void* stored, void* sums) {
    const S* from = static_cast<const S*>(stored);
    T* to = static_cast<T*>(sums);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(to + i, load_part<T>(from + i, left), left);
    });
  }

  static void to_operand(int64_t n, const void* sums, void* operand) {
    const T* from = static_cast<const T*>(sums);
    O* to = static_cast<O*>(operand);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(to + i, load_part<T>(from + i, left), left);
    });
  }

  template <class From>
  static void add_as(int64_t n, double factor, const void* from_, void* sums) {
    const From* from = static_cast<const From*>(from_);
    T* sum = static_cast<T*>(sums);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(sum + i, load_part<T>(sum + i, left) + load_part<T>(from + i, left) * T(factor),
                    left);
    });
  }

  static void sparse_product(int64_t rows, int64_t columns, int64_t width, const void* p_,
                             int64_t p_ld, const void* v_, int64_t v_ld, void* acc_, int64_t ld) {
    for (int64_t i = 0; i < rows; ++i) {
      const O* p = static_cast<const O*>(p_) + i * p_ld;
      T* acc = static_cast<T*>(acc_) + i * ld;
      for (int64_t j = 0; j < columns; ++j) {
        const T weight = load_part<T>(p + j, 1)[0];
        if (weight == T(0)) continue;
        const O* v = static_cast<const O*>(v_) + j * v_ld;
        for_vectors<T>(width, [&](int64_t c, int64_t left) __attribute__((always_inline)) {
          store_part<T>(acc + c, load_part<T>(acc + c, left) + load_part<T>(v + c, left) * weight,
                        left);
        });
      }
    }
  }

  static bool finite(int64_t n, const void* operand) {
    const O* from = static_cast<const O*>(operand);
    Vec<T> sum{};
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      sum += load_part<T>(from + i, left) * T(0);
    });
    return sum_of<T>(sum) == T(0);
  }

  template <class From>
  static double dot_as(int64_t n, const void* a_, const void* b_) {
    const From *a = static_cast<const From*>(a_), *b = static_cast<const From*>(b_);
    Vec<T> sum{};
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      sum += load_part<T>(a + i, left) * load_part<T>(b + i, left);
    });
    return double(sum_of<T>(sum));
  }

  static constexpr TileKernels kernels() {
    return {gather,    softmax,   softmax_grad,   narrow, widen,     to_operand, add_as<S>,
            add_as<O>, add_as<T>, sparse_product, finite, dot_as<S>, dot_as<T>};
  }
};

void argmax(int64_t rows, int64_t columns, const float* s, int64_t ld, const float* bias,
            int32_t* ids) {
  for (int64_t r = 0; r < rows; ++r, s += ld) {
    Vec<float> best = splat(-kInfinity<float>);
    IVec<float> at{};
    IVec<float> number = lane_numbers<float>();
    int64_t i = 0;
    for (; i + kLanes<float> <= columns; i += kLanes<float>, number += kLanes<float>) {
      const Vec<float> x = load(s + i) - load(bias + i);
      const IVec<float> better = x > best;
      best = better ? x : best;
      at = better ? number : at;
    }
    float top = -kInfinity<float>;
    int32_t id = 0;
    for (int l = 0; l < kLanes<float>; ++l) {
      if (best[l] > top || (best[l] == top && at[l] < id)) top = best[l], id = at[l];
    }
    for (; i < columns; ++i) {
      const float x = s[i] - bias[i];
      if (x > top) top = x, id = int32_t(i);
    }
    ids[r] = id;
  }
}

// Each product is summed over d in order, as in core/gemm.h. A NaN is never greater.
int64_t farthest(int64_t d, int64_t blocks, const float* x, const float* row, float* nearness) {
  constexpr int kVecs = attention::kFarthestColumns / kLanes<float>;
  Vec<float> least = splat(kInfinity<float>);
  IVec<float> at{};
  for (int64_t b = 0; b < blocks; ++b) {
    Vec<float> product[kVecs] = {};
    for (int64_t c = 0; c < d; ++c, x += attention::kFarthestColumns) {
      const Vec<float> value = splat(row[c]);
      for (int v = 0; v < kVecs; ++v) product[v] += value * load(x + v * kLanes<float>);
    }
    for (int v = 0; v < kVecs; ++v) {
      const int64_t first = b * attention::kFarthestColumns + v * kLanes<float>;
      const Vec<float> near = larger<float>(product[v], load(nearness + first));
      store(nearness + first, near);
      const IVec<float> less = near < least;
      least = less ? near : least;
      at = less ? lane_numbers<float>() + int32_t(first) : at;
    }
  }
  float low = kInfinity<float>;
  int32_t id = 0;
  for (int l = 0; l < kLanes<float>; ++l) {
    if (least[l] < low || (least[l] == low && at[l] < id)) low = least[l], id = at[l];
  }
  return id;
}

#if defined(__AMX_BF16__) || defined(THRIFTY_AMX_TWIN)
using Bfloat16Operand = BFloat16;
#else
using Bfloat16Operand = float;
#endif

}  // namespace

extern const attention::TileTable attention_tiles{
    {Tiles<float, float, float>::kernels(), Tiles<float, BFloat16, Bfloat16Operand>::kernels(),
     Tiles<float, Float16, float>::kernels(), Tiles<double, double, double>::kernels()},
    argmax,
    farthest};

}  // namespace thrifty::THRIFTY_ISA
