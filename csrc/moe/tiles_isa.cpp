// The tile kernels of tiles.h for one instruction set.
#include "moe/tiles.h"

#include <type_traits>

#include "core/gemm.h"
#include "core/simd_transpose.h"
#include "moe/phi.h"

namespace thrifty::THRIFTY_ISA {
namespace {

using moe::TileKernels;
using moe::UpGradTile;
using moe::UpTile;

// T: sums, S: storage, O: operand (BFloat16 where AMX multiplies, otherwise T)

template <class T>
THRIFTY_INLINE Vec<T> first_lanes(Vec<T> v, int64_t n) {
  if (n >= kLanes<T>) return v;
  for (int64_t l = n; l < kLanes<T>; ++l) v[l] = 0;
  return v;
}

template <class T>
THRIFTY_INLINE T sum_of(Vec<T> v) {
  T sum = v[0];
  for (int l = 1; l < kLanes<T>; ++l) sum += v[l];
  return sum;
}

template <class O>
constexpr int64_t kPanelColumns = std::is_same_v<O, BFloat16> ? 32 : 2 * kLanes<O>;

// Puts `v` at (row, column ...) of an operand's panels, as gemm.h's pack would have.
template <class T, class O>
THRIFTY_INLINE void put(void* panels, int64_t panel_bytes, int64_t row, int64_t column, Vec<T> v) {
  std::byte* panel = static_cast<std::byte*>(panels) + column / kPanelColumns<O> * panel_bytes;
  const int64_t inside = column % kPanelColumns<O>;
  if constexpr (std::is_same_v<O, T>) {
    store(reinterpret_cast<T*>(panel) + row * kPanelColumns<O> + inside, v);
  } else {  // tiles of 16 columns; a dword holds rows 2p and 2p + 1
    auto* pairs = reinterpret_cast<uint32_t*>(panel) +
                  ((row / 32 * 2 + inside / 16) * 16 + row % 32 / 2) * 16;
    UVec<float> both, half = to_bfloat16(v);
    __builtin_memcpy(&both, pairs, sizeof both);
    both = row % 2 ? (both & 0xffff) | half << 16 : (both & 0xffff0000) | half;
    __builtin_memcpy(pairs, &both, sizeof both);
  }
}

template <class T, class S, class O>
struct Tiles {
  static THRIFTY_INLINE Vec<T> row_bias(const void* bias, int64_t i) {
    return bias == nullptr ? Vec<T>{} : splat(static_cast<const T*>(bias)[i]);
  }

  // Through the storage format and back: what backward will read.
  static THRIFTY_INLINE Vec<T> keep(S* z, Vec<T> v, int64_t left) {
    store_part<T>(z, v, left);
    return load_part<T>(z, left);
  }

  template <Gate kGate>
  static void up_as(const Phi& phi, const UpTile& tile) {
    const bool gated = phi.gated;
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T* gate = static_cast<const T*>(tile.gate) + i * tile.step;
      const T* up = gated ? static_cast<const T*>(tile.up) + i * tile.step : gate;
      const Vec<T> gate_bias = row_bias(tile.gate_bias, i * tile.bias_step);
      const Vec<T> up_bias = gated ? row_bias(tile.up_bias, i * tile.bias_step) : Vec<T>{};
      S* z_gate = static_cast<S*>(tile.z_gate) + i * tile.z_step;
      S* z_up = gated ? static_cast<S*>(tile.z_up) + i * tile.z_step : nullptr;
      for_vectors<T>(tile.tokens, [&](int64_t j, int64_t left) __attribute__((always_inline)) {
        Vec<T> g = load(gate + j) + gate_bias, u = load(up + j) + up_bias;
        if (tile.z_gate != nullptr) {
          g = keep(z_gate + j, g, left);
          if (gated) u = keep(z_up + j, u, left);
        }
        const Vec<T> a = first_lanes<T>(phi_value<T, kGate>(g, u, phi), left);
        put<T, O>(tile.panels, tile.panel_bytes, tile.first + i, j, a);
      });
    }
  }

  static void up(const Phi& phi, const UpTile& tile) {
    with_gate(phi.gate, [&](auto tag) { up_as<decltype(tag)::value>(phi, tile); });
  }

  static THRIFTY_INLINE void put_row(void* rows, int64_t at, Vec<T> v) {
    if (rows != nullptr) Stored<T, O>::store(static_cast<O*>(rows) + at, v);
  }

  template <Gate kGate>
  static void up_grad_as(const Phi& phi, const UpGradTile& tile) {
    const bool gated = phi.gated;
    const T* weight = static_cast<const T*>(tile.weight);
    for (int64_t i = 0; i < tile.rows; ++i) {
      const T* da = static_cast<const T*>(tile.da) + i * tile.ld;
      const S* z_gate = static_cast<const S*>(tile.z_gate) + i * tile.z_step;
      const S* z_up = gated ? static_cast<const S*>(tile.z_up) + i * tile.z_step : z_gate;
      Vec<T> gate_sum{}, up_sum{};
      for (int64_t j = 0; j < tile.padded; j += kLanes<T>) {
        const int64_t left = tile.tokens - j;
        Vec<T> dg{}, du{}, as{};
        if (left > 0) {
          const Slopes<T> slopes = phi_slopes<T, kGate>(load_part<T>(z_gate + j, left),
                                                        load_part<T>(z_up + j, left), phi);
          const Vec<T> d = load(da + j), s = load(weight + j), ds = s * d;
          dg = first_lanes<T>(ds * slopes.gate, left);
          du = first_lanes<T>(ds * slopes.up, left);
          as = first_lanes<T>(s * slopes.value, left);
          if (tile.ds != nullptr) {
            T* sum = static_cast<T*>(tile.ds) + j;
            store_part<T>(sum, load_part<T>(sum, left) + d * slopes.value, left);
          }
        }
        gate_sum += dg, up_sum += du;
        if (tile.panels != nullptr) {
          const int64_t at = i * tile.first_step;
          put<T, O>(tile.panels, tile.panel_bytes, tile.first_gate + at, j, dg);
          if (gated) put<T, O>(tile.panels, tile.panel_bytes, tile.first_up + at, j, du);
        }
        put_row(tile.dz_gate, i * tile.dz_step + j, dg);
        if (gated) put_row(tile.dz_up, i * tile.dz_step + j, du);
        put_row(tile.as, i * tile.as_ld + j, as);
      }
      if (tile.bias_gate != nullptr) {
        static_cast<T*>(tile.bias_gate)[i * tile.bias_step] += sum_of<T>(gate_sum);
        if (gated) static_cast<T*>(tile.bias_up)[i * tile.bias_step] += sum_of<T>(up_sum);
      }
    }
  }

  static void up_grad(const Phi& phi, const UpGradTile& tile) {
    with_gate(phi.gate, [&](auto tag) { up_grad_as<decltype(tag)::value>(phi, tile); });
  }

  static void untile(int64_t rows, int64_t tokens, const void* c_, int64_t ld, const void* bias_,
                     const void* scale_, void* out_, int64_t out_ld) {
    const T* c = static_cast<const T*>(c_);
    const T* bias = static_cast<const T*>(bias_);
    const T* scale = static_cast<const T*>(scale_);
    T* out = static_cast<T*>(out_);
    constexpr int64_t kSquare = kLanes<T>;
    for (int64_t i = 0; i < rows; i += kSquare) {
      const int64_t in_row = rows - i < kSquare ? rows - i : kSquare;
      const Vec<T> b = bias == nullptr ? Vec<T>{} : load_part<T>(bias + i, in_row);
      for (int64_t j = 0; j < tokens; j += kSquare) {
        Vec<T> square[kSquare];
        for (int64_t l = 0; l < kSquare; ++l) {
          square[l] = l < in_row ? load(c + (i + l) * ld + j) : Vec<T>{};
        }
        transpose<T>(square);
        for (int64_t l = 0; l < kSquare && j + l < tokens; ++l) {
          const Vec<T> value = square[l] + b;
          const Vec<T> scaled = scale == nullptr ? value : splat(scale[j + l]) * value;
          store_part<T>(out + (j + l) * out_ld + i, scaled, in_row);
        }
      }
    }
  }

  static void up_row(const Phi& phi, int64_t n, const void* gate_, const void* up_,
                     const void* gate_bias_, const void* up_bias_, void* a_) {
    const T* gate = static_cast<const T*>(gate_);
    const T* up = static_cast<const T*>(up_);
    const T* gate_bias = static_cast<const T*>(gate_bias_);
    const T* up_bias = static_cast<const T*>(up_bias_);
    with_gate(phi.gate, [&](auto tag) {
      constexpr Gate kGate = decltype(tag)::value;
      for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
        const Vec<T> gb = gate_bias == nullptr ? Vec<T>{} : load_part<T>(gate_bias + i, left);
        const Vec<T> ub = up_bias == nullptr ? Vec<T>{} : load_part<T>(up_bias + i, left);
        const Vec<T> g = load_part<T>(gate + i, left) + gb;
        const Vec<T> u = phi.gated ? load_part<T>(up + i, left) + ub : g;
        store_part<T>(static_cast<T*>(a_) + i, phi_value<T, kGate>(g, u, phi), left);
      });
    });
  }

  static void scale_row(int64_t n, const void* x_, const void* bias_, const void* scale_,
                        void* out_) {
    const T* x = static_cast<const T*>(x_);
    const T* bias = static_cast<const T*>(bias_);
    const T* scale = static_cast<const T*>(scale_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      const Vec<T> b = bias == nullptr ? Vec<T>{} : load_part<T>(bias + i, left);
      const Vec<T> value = load_part<T>(x + i, left) + b;
      const Vec<T> scaled = scale == nullptr ? value : splat(*scale) * value;
      store_part<T>(static_cast<T*>(out_) + i, scaled, left);
    });
  }

  template <class From>
  static void add_from(int64_t n, const void* from_, void* sum_) {
    const From* from = static_cast<const From*>(from_);
    T* sum = static_cast<T*>(sum_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(sum + i, load_part<T>(sum + i, left) + load_part<T>(from + i, left), left);
    });
  }

  template <class From, class To>
  static void convert(int64_t n, const void* from_, void* to_) {
    const From* from = static_cast<const From*>(from_);
    To* to = static_cast<To*>(to_);
    for_vectors<T>(n, [&](int64_t i, int64_t left) __attribute__((always_inline)) {
      store_part<T>(to + i, load_part<T>(from + i, left), left);
    });
  }

  // --- few tokens: lanes are neurons; rows of weights are transposed in registers ----------------

  // Element type of a 32-bit lane of a 16-bit format: the lane's two values are k and k + 1.
  static constexpr bool kPairs = sizeof(S) == 2;
  static constexpr int kVecs = 2;  // of neurons
  static constexpr int64_t kFewRows = kVecs * kLanes<T>;

  // The same pointer, of which the compiler knows nothing: it would keep what it has read through
  // another for the next square, in registers that it does not have.
  template <class P>
  static THRIFTY_INLINE P* unknown(P* p) {
    asm volatile("" : "+r"(p));  // volatile: two of them are not one
    return p;
  }

  static constexpr int64_t kSteps = kPairs ? 2 * kLanes<T> : kLanes<T>;  // of k in a square
  using Column = std::conditional_t<kPairs, UVec<float>, Vec<T>>;

  // columns[p]: values (or pairs of values) p of kLanes rows of kSteps values.
  static THRIFTY_INLINE void square(const S* w, int64_t step, Column* columns) {
    constexpr int kHalf = kLanes<T> / 2;
    const S* half[] = {unknown(w), unknown(w + kHalf * step)};
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) {
      __builtin_memcpy(&columns[i], half[i / kHalf] + i % kHalf * step, kSimdBytes);
    }
    transpose<T>(columns);
  }

  // w(k = q) of a square.
  static THRIFTY_INLINE Vec<T> column(const Column* columns, int q) {
    if constexpr (!kPairs) {
      return columns[q];
    } else if constexpr (std::is_same_v<S, BFloat16>) {
      return Vec<float>(q % 2 ? columns[q / 2] & 0xffff0000 : columns[q / 2] << 16);
    } else {
      return from_float16(q % 2 ? columns[q / 2] >> 16 : columns[q / 2] & 0xffff);
    }
  }

  // A line of each of the next rows: a row is a page or so, where the hardware's prefetch starts
  // anew, and the rows of a block are many streams for it.
  template <int V>
  static THRIFTY_INLINE void prefetch_rows(const S* w, int64_t step) {
#pragma GCC unroll 32
    for (int i = 0; i < V * kLanes<T>; ++i) __builtin_prefetch(w + i * step, 0, 2);
  }

  // What a step of few_rows multiplies: rows of weights and of x.
  struct Step {
    const S* w;
    int64_t w_step;
    const T* x;
    int64_t x_ld;
  };

  // A step at the end of the rows or of k: copies, with zeros for what is not there.
  template <int M>
  static Step padded(const Step& from, int64_t rows, int64_t steps, S* w, T* x) {
    std::memset(static_cast<void*>(w), 0, kFewRows * kSteps * sizeof(S));
    for (int64_t i = 0; i < rows && i < kFewRows; ++i) {
      std::memcpy(w + i * kSteps, from.w + i * from.w_step, size_t(steps) * sizeof(S));
    }
    std::memset(x, 0, M * kSteps * sizeof(T));
    for (int64_t m = 0; m < M; ++m) {
      std::memcpy(x + m * kSteps, from.x + m * from.x_ld, size_t(steps) * sizeof(T));
    }
    return {w, kSteps, x, kSteps};
  }

  // M tokens, V vectors of neurons of which `rows` are there. A square is multiplied as soon as it
  // is transposed, so that both stay in registers.
  template <int M, int V>
  static THRIFTY_INLINE void few_rows(int64_t rows, int64_t k, const S* w, int64_t step, bool fetch,
                                      const T* x, int64_t x_ld, T* c, int64_t c_ld) {
    S w_copy[kFewRows * kSteps];
    T x_copy[M * kSteps];
    for (int64_t p0 = 0; p0 < k; p0 += kGemmDepth) {
      const int64_t end = k - p0 < kGemmDepth ? k : p0 + kGemmDepth;
      Vec<T> sum[M][V] = {};
      for (int64_t p = p0; p < end; p += kSteps) {
        const int64_t steps = end - p < kSteps ? end - p : kSteps;
        Step at{w + p, step, x + p, x_ld};
        if (fetch && p * int64_t(sizeof(S)) % 64 == 0) {
          prefetch_rows<V>(at.w + kFewRows * step, step);
        }
        if (rows < V * kLanes<T> || steps < kSteps) {
          at = padded<M>(at, rows, steps, w_copy, x_copy);
        }
#pragma GCC unroll 2
        for (int v = 0; v < V; ++v) {
          Column columns[kLanes<T>];
          square(at.w + v * kLanes<T> * at.w_step, at.w_step, columns);
          const T* values = unknown(at.x);
#pragma GCC unroll 32
          for (int q = 0; q < kSteps; ++q) {
            const Vec<T> w_q = column(columns, q);
#pragma GCC unroll 4
            for (int m = 0; m < M; ++m) sum[m][v] += splat(values[m * at.x_ld + q]) * w_q;
          }
        }
      }
      add_few<M, V>(rows, p0 > 0, sum, c, c_ld);
    }
  }

  template <int M>
  static THRIFTY_INLINE void few_columns(int64_t rows, int64_t k, const S* w, int64_t step,
                                         const T* x, int64_t x_ld, T* c, int64_t c_ld) {
    for (int64_t p0 = 0; p0 < k; p0 += kGemmDepth) {
      const int64_t end = k - p0 < kGemmDepth ? k : p0 + kGemmDepth;
      Vec<T> sum[M][kVecs] = {};
      for (int64_t p = p0; p < end; ++p) {
        Vec<T> column[kVecs];
        for (int v = 0; v < kVecs; ++v) {
          const int64_t left = rows - v * kLanes<T>;
          column[v] = left > 0 ? load_part<T>(w + p * step + v * kLanes<T>, left) : Vec<T>{};
        }
#pragma GCC unroll 4
        for (int m = 0; m < M; ++m) {
          const Vec<T> value = splat(x[m * x_ld + p]);
          for (int v = 0; v < kVecs; ++v) sum[m][v] += value * column[v];
        }
      }
      add_few<M, kVecs>(rows, p0 > 0, sum, c, c_ld);
    }
  }

  template <int M, int V>
  static THRIFTY_INLINE void add_few(int64_t rows, bool add, Vec<T> (*sum)[V], T* c, int64_t c_ld) {
    for (int m = 0; m < M; ++m) {
      for (int v = 0; v < V; ++v) {
        const int64_t left = rows - v * kLanes<T>;
        if (left <= 0) continue;
        T* out = c + m * c_ld + v * kLanes<T>;
        store_part<T>(out, add ? load_part<T>(out, left) + sum[m][v] : sum[m][v], left);
      }
    }
  }

  template <int M>
  static void few_of(int64_t rows, int64_t k, const S* w, int64_t step, bool transposed, bool fetch,
                     const T* x, int64_t x_ld, T* c, int64_t c_ld) {
    if (transposed) {
      few_columns<M>(rows, k, w, step, x, x_ld, c, c_ld);
      return;
    }
    // One chain of sums is bound by the latency of its additions, so two vectors of rows; from
    // three tokens on there are chains enough, and registers for one vector.
    constexpr int V = M < 3 ? kVecs : 1;
    for (int64_t i = 0; i < kFewRows && i < rows; i += V * kLanes<T>) {
      few_rows<M, V>(rows - i, k, w + i * step, step, fetch, x, x_ld, c + i, c_ld);
    }
  }

  static void few(int64_t rows, int64_t tokens, int64_t k, const void* w_, int64_t step,
                  bool transposed, const void* x_, int64_t x_ld, void* c_, int64_t c_ld) {
    const S* w = static_cast<const S*>(w_);
    const T* x = static_cast<const T*>(x_);
    T* c = static_cast<T*>(c_);
    for (int64_t i = 0; i < rows; i += kFewRows) {  // all tokens while the rows are in cache
      const S* block = w + i * (transposed ? 1 : step);
      for (int64_t j = 0; j < tokens; j += 4) {
        const int64_t m = tokens - j < 4 ? tokens - j : 4;
        const auto run = m == 4 ? few_of<4> : m == 3 ? few_of<3> : m == 2 ? few_of<2> : few_of<1>;
        run(rows - i, k, block, step, transposed, j == 0, x + j * x_ld, x_ld, c + j * c_ld + i,
            c_ld);
      }
    }
  }

  static constexpr TileKernels table() {
    return {up,          up_grad,     untile,        few,           up_row,       scale_row,
            add_from<T>, add_from<S>, convert<S, T>, convert<T, S>, convert<S, O>};
  }
};

}  // namespace

#if defined(__AMX_BF16__) || defined(THRIFTY_AMX_TWIN)
using HalfOperand = BFloat16;
#else
using HalfOperand = float;
#endif

extern const moe::TileTable moe_tiles{{
    Tiles<float, float, float>::table(),
    Tiles<float, BFloat16, HalfOperand>::table(),
    Tiles<float, Float16, float>::table(),
    Tiles<double, double, double>::table(),
}};

}  // namespace thrifty::THRIFTY_ISA
