// The row kernels of rows.h for one instruction set.
#include "ensemble/rows.h"

#include <type_traits>

#include "core/simd_math.h"
#include "core/simd_philox.h"

namespace thrifty::THRIFTY_ISA {
namespace {

using ensemble::Activation;
using ensemble::LayerRow;
using ensemble::LayerSums;
using ensemble::RowKernels;

// --- activations: value and derivative -----------------------------------------------------------

template <Activation>
struct Act {
  template <class T>
  static THRIFTY_INLINE Vec<T> value(Vec<T> y) {
    return y;
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> slope(Vec<T>) {
    return splat(T(1));
  }
};

// The comparisons let NaN through, as torch does.
template <>
struct Act<Activation::kRelu> {
  template <class T>
  static THRIFTY_INLINE Vec<T> value(Vec<T> y) {
    return y < T(0) ? Vec<T>{} : y;
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> slope(Vec<T> y) {
    return y <= T(0) ? Vec<T>{} : splat(T(1));
  }
};

template <>
struct Act<Activation::kSilu> {
  template <class T>
  static THRIFTY_INLINE Vec<T> value(Vec<T> y) {
    return y * sigmoid<T>(y);
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> slope(Vec<T> y) {
    const Vec<T> p = sigmoid<T>(y);
    return p * (T(1) + y * (T(1) - p));
  }
};

// y Phi(y), with Phi the distribution function of the standard normal.
template <>
struct Act<Activation::kGelu> {
  template <class T>
  static THRIFTY_INLINE Vec<T> normal_cdf(Vec<T> y) {
    return T(0.5) * (T(1) + erf(y * T(0.70710678118654752)));
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> value(Vec<T> y) {
    return y * normal_cdf<T>(y);
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> slope(Vec<T> y) {
    const Vec<T> density = exp(T(-0.5) * y * y) * T(0.39894228040143268);
    return normal_cdf<T>(y) + y * density;
  }
};

// y (1 + tanh(c (y + 0.044715 y^3))) / 2 with c = sqrt(2 / pi)
template <>
struct Act<Activation::kGeluTanh> {
  template <class T>
  static THRIFTY_INLINE Vec<T> inner(Vec<T> y) {
    return tanh<T>(T(0.79788456080286536) * (y + T(0.044715) * y * y * y));
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> value(Vec<T> y) {
    return T(0.5) * y * (T(1) + inner<T>(y));
  }
  template <class T>
  static THRIFTY_INLINE Vec<T> slope(Vec<T> y) {
    const Vec<T> t = inner<T>(y);
    const Vec<T> du = T(0.79788456080286536) * (T(1) + T(0.134145) * y * y);
    return T(0.5) * (T(1) + t) + T(0.5) * y * (T(1) - t * t) * du;
  }
};

template <class Body>
THRIFTY_INLINE void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::kNone: return body(Act<Activation::kNone>{});
    case Activation::kRelu: return body(Act<Activation::kRelu>{});
    case Activation::kSilu: return body(Act<Activation::kSilu>{});
    case Activation::kGelu: return body(Act<Activation::kGelu>{});
    case Activation::kGeluTanh: return body(Act<Activation::kGeluTanh>{});
  }
}

// --- rows ----------------------------------------------------------------------------------------
// T: accumulator, S: storage, O: operand. Loops step by one vector; scratch rows are padded, so
// only storage needs care at the end of a row.

template <class T>
THRIFTY_INLINE void accumulate(T* sum, int64_t i, int64_t left, Vec<T> v) {
  if (sum != nullptr) store_part<T>(sum + i, load_part<T>(sum + i, left) + v, left);
}

template <class T, class S, class O>
struct Rows {
  static void scale_input(int64_t n, const void* x_, const void* r_, void* operand_) {
    const S* x = static_cast<const S*>(x_);
    const T* r = static_cast<const T*>(r_);
    O* operand = static_cast<O*>(operand_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      Vec<T> u = load_part<T>(x + i, left);
      if (r != nullptr) u *= load_part<T>(r + i, left);
      store_part<T>(operand + i, u, left);
    });
  }

  template <class Out>
  static THRIFTY_INLINE void finish_as(int64_t n, const void* product_, const LayerRow& row, S* z,
                                       Out* out) {
    const T* product = static_cast<const T*>(product_);
    const T *s = static_cast<const T*>(row.s), *bias = static_cast<const T*>(row.bias);
    const T *r_next = static_cast<const T*>(row.r_next), *mask = static_cast<const T*>(row.mask);
    with_activation(row.activation, [&](auto act) __attribute__((always_inline)) {
      for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        Vec<T> zi = load_part<T>(product + i, left);
        if (z != nullptr) {
          // Backward recomputes y from the z that was stored: y is made of the same rounded value
          // here, or relu's gradient would belong to another function wherever rounding moves y
          // across zero.
          store_part<T>(z + i, zi, left);
          zi = load_part<T>(z + i, left);
        }
        const Vec<T> y = zi * load_part<T>(s + i, left) + load_part<T>(bias + i, left);
        const Vec<T> h = act.template value<T>(y) * load_part<T>(mask + i, left);
        if (out != nullptr) store_part<T>(out + i, h * load_part<T>(r_next + i, left), left);
      });
    });
  }

  static void finish(int64_t n, const void* product, const LayerRow& row, void* z, void* out) {
    finish_as(n, product, row, static_cast<S*>(z), static_cast<S*>(out));
  }

  static void finish_operand(int64_t n, const void* product, const LayerRow& row, void* operand) {
    finish_as(n, product, row, static_cast<S*>(nullptr), static_cast<O*>(operand));
  }

  static void backward(int64_t n, const void* grad_, const void* z_, const LayerRow& row, void* dz_,
                       const LayerSums& sums) {
    const S *grad = static_cast<const S*>(grad_), *z = static_cast<const S*>(z_);
    const T *s = static_cast<const T*>(row.s), *bias = static_cast<const T*>(row.bias);
    const T *r_next = static_cast<const T*>(row.r_next), *mask = static_cast<const T*>(row.mask);
    O* dz = static_cast<O*>(dz_);
    T* const sum_r_next = static_cast<T*>(sums.r_next);
    T* const sum_bias = static_cast<T*>(sums.bias);
    T* const sum_s = static_cast<T*>(sums.s);
    with_activation(row.activation, [&](auto act) __attribute__((always_inline)) {
      for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        const Vec<T> g = load_part<T>(grad + i, left), si = load_part<T>(s + i, left);
        const Vec<T> zi = z != nullptr ? load_part<T>(z + i, left) : Vec<T>{};
        const Vec<T> y = zi * si + load_part<T>(bias + i, left);
        const Vec<T> m = load_part<T>(mask + i, left);
        if (sum_r_next != nullptr) {
          accumulate(sum_r_next, i, left, g * m * act.template value<T>(y));
        }
        const Vec<T> dy = g * load_part<T>(r_next + i, left) * m * act.template slope<T>(y);
        accumulate(sum_bias, i, left, dy);
        accumulate(sum_s, i, left, dy * zi);
        store_part<T>(dz + i, dy * si, left);
      });
    });
  }

  static void input_grad(int64_t n, const void* g_, const void* x_, const void* r_, void* dx_,
                         void* dx_sum_, void* dr_) {
    const T *g = static_cast<const T*>(g_), *r = static_cast<const T*>(r_);
    const S* x = static_cast<const S*>(x_);
    S* dx = static_cast<S*>(dx_);
    T *dx_sum = static_cast<T*>(dx_sum_), *dr = static_cast<T*>(dr_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      const Vec<T> gi = load_part<T>(g + i, left);
      const Vec<T> scaled = r != nullptr ? gi * load_part<T>(r + i, left) : gi;
      if (dx != nullptr) store_part<T>(dx + i, scaled, left);
      accumulate(dx_sum, i, left, scaled);
      if (dr != nullptr) accumulate(dr, i, left, gi * load_part<T>(x + i, left));
    });
  }

  static void weight_grad(int64_t n, const void* d_, const void* w_, const void* r_, void* dw_,
                          void* dr_) {
    const T *d = static_cast<const T*>(d_), *r = static_cast<const T*>(r_);
    const S* w = static_cast<const S*>(w_);
    T *dw = static_cast<T*>(dw_), *dr = static_cast<T*>(dr_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      const Vec<T> di = load_part<T>(d + i, left);
      accumulate(dw, i, left, di * load_part<T>(r + i, left));
      accumulate(dr, i, left, di * load_part<T>(w + i, left));
    });
  }

  static void add(int64_t n, const void* from_, void* sum_) {
    const T* from = static_cast<const T*>(from_);
    T* sum = static_cast<T*>(sum_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      accumulate(sum, i, left, load_part<T>(from + i, left));
    });
  }

  static double dot(int64_t n, const void* operand_, const void* vector_) {
    const O* operand = static_cast<const O*>(operand_);
    const T* vector = static_cast<const T*>(vector_);
    Vec<T> sum{};
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      sum += load_part<T>(operand + i, left) * load_part<T>(vector + i, left);
    });
    double total = 0;
    for (int lane = 0; lane < kLanes<T>; ++lane) total += double(sum[lane]);
    return total;
  }

  static void to_accumulator(int64_t n, const void* storage_, void* accumulator_) {
    const S* storage = static_cast<const S*>(storage_);
    T* accumulator = static_cast<T*>(accumulator_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(accumulator + i, load_part<T>(storage + i, left), left);
    });
  }

  static void to_storage(int64_t n, const void* accumulator_, void* storage_) {
    const T* accumulator = static_cast<const T*>(accumulator_);
    S* storage = static_cast<S*>(storage_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(storage + i, load_part<T>(accumulator + i, left), left);
    });
  }
};

// --- dropout -------------------------------------------------------------------------------------

// Groups of 64 columns: counter i % 16, word i / 16 % 4 (philox.h, dropout_place). A float64 row is
// a float one, widened.
void float_mask(int64_t n, const Dropout& dropout, uint32_t row, int64_t column, float* mask) {
  UVec<float> lane;
  for (int i = 0; i < kLanes<float>; ++i) lane[i] = uint32_t(i);
  const Vec<float> scale = splat(float(dropout.scale));
  for (int64_t group = 0; group < n; group += 64) {
    for (int first = 0; first < 16; first += kLanes<float>) {
      const UVec<float> counter = lane + uint32_t((column + group) / 4 + first);
      const PhiloxWords words = philox(dropout.seed, counter, row, dropout.offset);
      for (int w = 0; w < 4; ++w) {
        const int64_t i = group + w * 16 + first;
        const Vec<float> kept = words.word[w] >= dropout.threshold ? scale : Vec<float>{};
        if (i < n) store_part<float>(mask + i, kept, n - i);
      }
    }
  }
}

template <class T>
void dropout_mask(int64_t n, const Dropout& dropout, uint32_t row, int64_t column, void* mask) {
  if constexpr (std::is_same_v<T, float>) {
    float_mask(n, dropout, row, column, static_cast<float*>(mask));
  } else {
    float part[64];
    for (int64_t first = 0; first < n; first += 64) {
      const int64_t count = n - first < 64 ? n - first : 64;
      float_mask(count, dropout, row, column + first, part);
      for (int64_t i = 0; i < count; ++i) {
        static_cast<T*>(mask)[first + i] = part[i] != 0 ? T(dropout.scale) : T(0);
      }
    }
  }
}

template <class T, class S, class O>
constexpr RowKernels kernels() {
  using R = Rows<T, S, O>;
  return {R::scale_input, R::finish,         R::finish_operand, R::backward,
          R::input_grad,  R::weight_grad,    dropout_mask<T>,   R::add,
          R::dot,         R::to_accumulator, R::to_storage};
}

#if defined(__AMX_BF16__) || defined(THRIFTY_AMX_TWIN)
using BFloat16Operand = BFloat16;
#else
using BFloat16Operand = float;
#endif

}  // namespace

extern const ensemble::RowTable ensemble_rows{{
    kernels<float, float, float>(),
    kernels<float, BFloat16, BFloat16Operand>(),
    kernels<float, Float16, float>(),
    kernels<double, double, double>(),
}};

}  // namespace thrifty::THRIFTY_ISA
