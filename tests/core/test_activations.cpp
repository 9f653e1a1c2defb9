// Activations and their derivatives on every instruction set against libm in double.
//
// Errors are measured in units of eps max(1, |y|), eps = 2^-23 (float32) or 2^-52 (float64): small
// results, such as gelu's left tail, have an absolute error and no relative one, because erf's
// polynomial is good to 1.5e-7 = 1.3 eps. The bounds are the errors found (1.4 at most for values,
// 2 for slopes, 6.2 for gelu_tanh's, which subtracts t^2 from 1) and room for another libm.
#include "check.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

using ensemble::Activation;

constexpr double kC = 0.79788456080286535588;  // sqrt(2 / pi)

struct ValueAndSlope {
  double value, slope;
};

ValueAndSlope reference(Activation activation, double y) {
  switch (activation) {
    case Activation::kNone: return {y, 1};
    case Activation::kRelu: return {y > 0 ? y : 0, y > 0 ? 1.0 : 0.0};
    case Activation::kSilu: {
      const double p = 1 / (1 + std::exp(-y));
      return {y * p, p + y * p * (1 - p)};
    }
    case Activation::kGelu: {
      const double cdf = std::erfc(-y * M_SQRT1_2) / 2;
      return {y * cdf, cdf + y * std::exp(-y * y / 2) * kC / 2};
    }
    default: {
      const double t = std::tanh(kC * (y + 0.044715 * y * y * y));
      const double inner_slope = kC * (1 + 3 * 0.044715 * y * y);
      return {y / 2 * (1 + t), (1 + t) / 2 + y / 2 * (1 - t * t) * inner_slope};
    }
  }
}

struct Named {
  Activation activation;
  const char* name;
  double value_bound, slope_bound;  // in units of eps max(1, |y|)
};
constexpr Named kAll[] = {{Activation::kNone, "none", 0, 0},
                          {Activation::kRelu, "relu", 0, 0},
                          {Activation::kSilu, "silu", 2, 2},
                          {Activation::kGelu, "gelu", 2, 3},
                          {Activation::kGeluTanh, "gelu_tanh", 2, 8}};

struct Rows {
  Guarded value, slope;
};

// The kernels with s = r' = mask = 1: the bias is y where the product is absent.
Rows apply(const ensemble::RowKernels& kernels, Dtype dtype, Activation activation,
           const Guarded& y) {
  const int64_t n = y.size();
  const Guarded one(dtype, n, [] { return 1.0; }), zero(dtype, n, [] { return 0.0; });
  Rows rows{Guarded(dtype, n), Guarded(dtype, n)};
  kernels.finish(n, zero.data(), {activation, one.data(), y.data(), one.data(), one.data()},
                 nullptr, rows.value.data());
  kernels.backward(n, one.data(), nullptr,
                   {activation, one.data(), y.data(), one.data(), one.data()}, rows.slope.data(),
                   {});
  return rows;
}

template <class Body>
void for_all(const std::vector<double>& arguments, const Body& body) {
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64}) {
      Guarded y(dtype, int64_t(arguments.size()));
      for (int64_t i = 0; i < y.size(); ++i) y.set(i, arguments[size_t(i)]);
      for (const Named& named : kAll) {
        body(tables.isa, named, apply(tables.rows.storage[int(dtype)], dtype, named.activation, y),
             y);
      }
    }
  }
}

void accuracy() {
  std::vector<double> arguments;
  for (double y = -12; y < 12; y += 0.0007) arguments.push_back(y);
  for (double y = 1e-45; y < 1e6; y *= 1.3) arguments.push_back(y), arguments.push_back(-y);
  for_all(arguments, [](const char* isa, const Named& named, const Rows& got, const Guarded& y) {
    const bool wide = y.dtype() == Dtype::kFloat64;
    for (int64_t i = 0; i < y.size(); ++i) {
      const ValueAndSlope want = reference(named.activation, y[i]);
      const double unit = (wide ? 0x1p-52 : 0x1p-23) * std::max(1.0, std::fabs(y[i]));
      const double value_error = std::fabs(got.value[i] - want.value) / unit;
      const double slope_error = std::fabs(got.slope[i] - want.slope) / unit;
      EXPECT(value_error <= named.value_bound, isa, " ", named.name, "(", y[i], "): got ",
             got.value[i], ", want ", want.value, ", ", value_error, " units");
      EXPECT(slope_error <= named.slope_bound, isa, " ", named.name, "'(", y[i], "): got ",
             got.slope[i], ", want ", want.slope, ", ", slope_error, " units");
    }
  });
}

// NaN goes through values, and through slopes that depend on y.
void not_a_number() {
  for_all({NAN, -NAN}, [](const char* isa, const Named& named, const Rows& got, const Guarded&) {
    for (const int64_t i : {0, 1}) {
      EXPECT(std::isnan(got.value[i]), isa, " ", named.name, "(NaN): got ", got.value[i]);
      EXPECT(std::isnan(got.slope[i]) || named.activation <= Activation::kRelu, isa, " ",
             named.name, "'(NaN): got ", got.slope[i]);
    }
  });
}

// Zero, infinity, and numbers so large that exp overflows (but for the derivative of gelu_tanh not
// so large that their squares do).
void extremes() {
  for_all({0.0, -0.0, INFINITY, 3e38, -3e38, 1e19, -1e19},
          [](const char* isa, const Named& named, const Rows& got, const Guarded& y) {
            EXPECT(got.value[2] == INFINITY, isa, " ", named.name, ": got ", got.value[2]);
            for (const int64_t i : {0, 1, 3, 4, 5, 6}) {
              const ValueAndSlope want = reference(named.activation, y[i]);
              EXPECT(std::fabs(got.value[i] - want.value) <= 1e-6 * std::fabs(want.value), isa, " ",
                     named.name, "(", y[i], "): got ", got.value[i]);
              if (named.activation == Activation::kGeluTanh && std::fabs(y[i]) > 1e19) continue;
              EXPECT(std::fabs(got.slope[i] - want.slope) <= 1e-6, isa, " ", named.name, "'(", y[i],
                     "): got ", got.slope[i]);
            }
          });
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests(
      {{"accuracy", accuracy}, {"not a number", not_a_number}, {"extremes", extremes}});
}
