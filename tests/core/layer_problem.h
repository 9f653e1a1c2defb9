// A random layer with all its arguments, called through the checks like any other, and the same by
// naive loops in double.
//
// Values are small dyadic numbers (numbers.h) for which every sum is exact in float32, so results
// must equal the loops to the bit, rounded once to the storage format, as long as the activation is
// none or relu.
#pragma once

#include <cmath>

#include "ensemble/linear.h"
#include "guarded.h"

namespace thrifty::test {

using ensemble::Activation;
using ensemble::Layer;

struct Tensor {
  std::vector<int64_t> shape;
  Guarded data;

  Tensor() = default;
  template <class Value>
  Tensor(Dtype dtype, std::vector<int64_t> shape, const Value& value)
      : shape(std::move(shape)), data(dtype, count(this->shape), value) {}
  static int64_t count(const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    return n;
  }
  bool present() const { return !shape.empty(); }
  double operator[](int64_t i) const { return data[i]; }
  Array array() const {
    if (!present()) return {};
    Array a;
    a.data = const_cast<void*>(data.data());
    a.dtype = data.dtype();
    a.ndim = int(shape.size());
    int64_t stride = 1;
    for (int d = a.ndim - 1; d >= 0; stride *= shape[size_t(d)], --d) {
      a.shape[size_t(d)] = shape[size_t(d)], a.strides[size_t(d)] = stride;
    }
    return a;
  }
};

// What varies from one layer to the next. `batch` counts samples, or rows when group > 0.
struct LayerSpec {
  Dtype dtype = Dtype::kFloat32;
  int64_t batch = 1, k = 1, in = 1, out = 1, group = 0;
  bool packed = false, shared_x = false;
  bool r = true, s = true, r_next = true;  // not for packed layers
  int bias = 2;                            // its rank; 0: none
  const char* activation = "relu";
  double dropout = 0;
  bool float_vectors = false;  // r, s, bias and r_next stay float32
  bool real_values = false;    // full precision instead of exact sums

  int64_t rows() const { return group > 0 ? batch : batch * k; }
  int64_t member(int64_t row) const { return group > 0 ? row / group % k : row % k; }
  std::string text() const {
    return concat(packed ? "packed " : "", dtype_name(dtype), " batch ", batch, " k ", k, " in ",
                  in, " out ", out, " group ", group, shared_x ? " shared x" : "", " r ", r, " s ",
                  s, " r_next ", r_next, " bias ", bias, " ", activation, " dropout ", dropout,
                  float_vectors ? " float vectors" : "");
  }
};

class LayerProblem {
 public:
  LayerProblem(const LayerSpec& spec, uint64_t seed) : spec(spec), random_(seed) {
    const Dtype vectors = spec.float_vectors ? Dtype::kFloat32 : spec.dtype;
    const auto term = [&] { return spec.real_values ? random_.uniform(-1, 1) : random_.quarter(); };
    const auto factor = [&] { return spec.real_values ? random_.uniform(-1, 1) : random_.power(); };
    const auto [batch, k, in, out] = std::tuple(spec.batch, spec.k, spec.in, spec.out);
    if (spec.group > 0 || spec.shared_x) {
      x = Tensor(spec.dtype, {batch, in}, term);
    } else {
      x = Tensor(spec.dtype, {batch, k, in}, term);
    }
    if (spec.packed) {
      weight = Tensor(spec.dtype, {k, in, out}, term);
    } else {
      weight = Tensor(spec.dtype, {out, in}, term);
      if (spec.r) r = Tensor(vectors, {k, in}, factor);
      if (spec.s) s = Tensor(vectors, {k, out}, factor);
      if (spec.r_next) r_next = Tensor(vectors, {k, out}, factor);
    }
    if (spec.bias == 1) bias = Tensor(vectors, {out}, term);
    if (spec.bias == 2) bias = Tensor(vectors, {k, out}, term);
    grad = Guarded(spec.dtype, spec.rows() * out, term);
  }

  Layer layer() const {
    ensemble::LayerArgs args{.op = "layer",
                             .x = x.array(),
                             .weight = weight.array(),
                             .r = r.array(),
                             .s = s.array(),
                             .bias = bias.array(),
                             .r_next = r_next.array(),
                             .activation = spec.activation,
                             .dropout = spec.dropout,
                             .k = spec.packed ? 0 : spec.k,
                             .group = spec.group};
    args.seed.data = const_cast<int64_t*>(seed);
    args.seed.dtype = Dtype::kInt64, args.seed.ndim = 1;
    args.seed.shape[0] = 2, args.seed.strides[0] = 1;
    return spec.packed ? check_ensemble_linear(args) : check_batch_ensemble_linear(args);
  }

  // --- the loops
  int64_t x_at(int64_t row, int64_t i) const {
    return (spec.shared_x ? row / spec.k : row) * spec.in + i;
  }
  int64_t weight_at(int64_t j, int64_t i, int64_t o) const {
    return spec.packed ? (j * spec.in + i) * spec.out + o : o * spec.in + i;
  }
  static double or_one(const Tensor& vector, int64_t i) { return vector.present() ? vector[i] : 1; }
  double u(int64_t row, int64_t i) const {
    return x[x_at(row, i)] * or_one(r, spec.member(row) * spec.in + i);
  }
  double z(int64_t row, int64_t o) const {
    double sum = 0;
    for (int64_t i = 0; i < spec.in; ++i) {
      sum += u(row, i) * weight[weight_at(spec.member(row), i, o)];
    }
    return sum;
  }
  int64_t bias_at(int64_t j, int64_t o) const { return spec.bias == 2 ? j * spec.out + o : o; }
  double y(int64_t row, int64_t o, double z) const {
    const int64_t j = spec.member(row);
    return z * or_one(s, j * spec.out + o) + (bias.present() ? bias[bias_at(j, o)] : 0);
  }
  double mask(int64_t row, int64_t o) const {
    const Dropout d(spec.dropout, uint64_t(seed[0]), uint64_t(seed[1]));
    if (!d.enabled()) return 1;
    return dropout_word(d.seed, d.offset, uint32_t(row), o) >= d.threshold ? d.scale : 0;
  }
  double activation(double y) const {
    const std::string name = spec.activation;
    if (name == "relu") return y > 0 ? y : 0;
    return name == "silu" ? y / (1 + std::exp(-y)) : y;
  }
  double slope(double y) const {
    const std::string name = spec.activation;
    if (name == "relu") return y > 0 ? 1 : 0;
    const double p = 1 / (1 + std::exp(-y));
    return name == "silu" ? p * (1 + y * (1 - p)) : 1;
  }
  double out(int64_t row, int64_t o, double z) const {
    return activation(y(row, o, z)) * mask(row, o) *
           or_one(r_next, spec.member(row) * spec.out + o);
  }

  const LayerSpec spec;
  Tensor x, weight, r, s, bias, r_next;
  Guarded grad;
  const int64_t seed[2] = {0x123456789abcdef, 42};

 private:
  Random random_;
};

}  // namespace thrifty::test
