// Every function of RowKernels on every instruction set, for all storage formats, odd lengths and
// absent arguments, against loops in double.
//
// Values are such that every intermediate is exact (numbers.h), so a result must be the reference
// rounded once. The smooth activations alone get a tolerance; test_activations.cpp has their own.
#include "check.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

using ensemble::Activation;
using ensemble::LayerRow;
using ensemble::RowKernels;

constexpr int64_t kLengths[] = {0,  1,  2,  3,  4,  5,  7,  8,  9,   15,
                                16, 17, 31, 32, 33, 63, 64, 65, 100, 129};

// The kernels of one table for one storage format.
struct Kit {
  const char* isa;
  Dtype storage, accumulator, operand;
  const RowKernels& kernels;
};

template <class Body>
void for_all(const Body& body) {
  Random random(1);
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : kStorageDtypes) {
      const GemmKernels& gemm = tables.gemm.storage[int(dtype)];
      const Kit kit{tables.isa, dtype, accumulator_dtype(gemm), operand_dtype(gemm),
                    tables.rows.storage[int(dtype)]};
      for (const int64_t n : kLengths) body(kit, n, random);
    }
  }
}

// out[i] is want(i), rounded to out's format, give or take `tolerance`; nothing beside it changed.
template <class Want>
void expect_row(const Kit& kit, const char* what, const Guarded& out, const Want& want,
                double tolerance = 0) {
  const double unit = out.dtype() == Dtype::kBFloat16  ? 0x1p-8
                      : out.dtype() == Dtype::kFloat16 ? 0x1p-11
                      : out.dtype() == Dtype::kFloat32 ? 0x1p-24
                                                       : 0x1p-53;
  for (int64_t i = 0; i < out.size(); ++i) {
    const double w = want(i);
    const bool right = tolerance > 0 ? std::fabs(out[i] - w) <= tolerance + unit * std::fabs(w)
                                     : out[i] == rounded(out.dtype(), w);
    EXPECT(right, kit.isa, " ", dtype_name(kit.storage), " ", what, "[", i, "] of ", out.size(),
           ": got ", out[i], ", want ", w);
  }
  EXPECT(out.intact(), kit.isa, " ", dtype_name(kit.storage), " ", what, ", n = ", out.size());
}

double value(Activation activation, double y) {
  switch (activation) {
    case Activation::kNone: return y;
    case Activation::kRelu: return y > 0 ? y : 0;
    case Activation::kSilu: return y / (1 + std::exp(-y));
    case Activation::kGelu: return y * std::erfc(-y * M_SQRT1_2) / 2;
    default: return y / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (y + 0.044715 * y * y * y)));
  }
}

// Central difference of `value`, exact to 1e-9 here; relu's slope at 0 is 0.
double slope(Activation activation, double y) {
  if (activation == Activation::kNone) return 1;
  if (activation == Activation::kRelu) return y > 0 ? 1 : 0;
  const double step = 1e-5;
  return (value(activation, y + step) - value(activation, y - step)) / (2 * step);
}

constexpr Activation kActivations[] = {Activation::kNone, Activation::kRelu, Activation::kSilu,
                                       Activation::kGelu, Activation::kGeluTanh};

// Beside the rounding of the result; the factors after the activation are at most 4.
double tolerance(const Kit& kit, Activation activation) {
  if (activation <= Activation::kRelu) return 0;
  return kit.accumulator == Dtype::kFloat64 ? 1e-8 : 4e-6;
}

struct Vectors {
  Guarded s, bias, r_next, mask;
  Vectors(Dtype dtype, int64_t n, Random& random)
      : s(dtype, n, [&] { return random.power(); }),
        bias(dtype, n, [&] { return random.quarter(); }),
        r_next(dtype, n, [&] { return random.power(); }),
        mask(dtype, n, [&] { return random.bits() & 1 ? 2.0 : 0.0; }) {}
  LayerRow row(Activation activation) const {
    return {activation, s.data(), bias.data(), r_next.data(), mask.data()};
  }
};

// 13 bits: too long for the 16-bit formats, so that rounding shows.
double long_value(Random& random) { return random.quarter() + random.quarter() / 1024; }

void scale_input() {
  for_all([](const Kit& kit, int64_t n, Random& random) {
    const Guarded x(kit.storage, n, [&] { return random.quarter(); });
    const Guarded r(kit.accumulator, n, [&] { return random.quarter(); });
    for (const bool scaled : {false, true}) {
      Guarded operand(kit.operand, n);
      kit.kernels.scale_input(n, x.data(), scaled ? r.data() : nullptr, operand.data());
      expect_row(kit, "operand", operand, [&](int64_t i) { return x[i] * (scaled ? r[i] : 1); });
    }
  });
}

// What is stored of z is what out is made of.
void finish() {
  for_all([](const Kit& kit, int64_t n, Random& random) {
    const Guarded product(kit.accumulator, n, [&] { return long_value(random); });
    const Vectors with(kit.accumulator, n, random);
    for (const Activation activation : kActivations) {
      const auto out_of = [&](double z, int64_t i) {
        return value(activation, with.s[i] * z + with.bias[i]) * with.mask[i] * with.r_next[i];
      };
      const LayerRow row = with.row(activation);
      const double allowed = tolerance(kit, activation);
      for (const bool saves : {false, true}) {
        Guarded z(kit.storage, n), out(kit.storage, n);
        kit.kernels.finish(n, product.data(), row, saves ? z.data() : nullptr, out.data());
        if (saves) expect_row(kit, "z", z, [&](int64_t i) { return product[i]; });
        const Guarded& from = saves ? z : product;
        expect_row(kit, "out", out, [&](int64_t i) { return out_of(from[i], i); }, allowed);
      }
      Guarded z(kit.storage, n), operand(kit.operand, n);
      kit.kernels.finish(n, product.data(), row, z.data(), nullptr);
      expect_row(kit, "z alone", z, [&](int64_t i) { return product[i]; });
      kit.kernels.finish_operand(n, product.data(), row, operand.data());
      expect_row(
          kit, "operand", operand, [&](int64_t i) { return out_of(product[i], i); }, allowed);
    }
  });
}

void backward() {
  for_all([](const Kit& kit, int64_t n, Random& random) {
    const Guarded grad(kit.storage, n, [&] { return random.quarter(); });
    const Guarded z(kit.storage, n, [&] { return long_value(random); });
    const Guarded before(kit.accumulator, n, [&] { return random.quarter(); });
    const Vectors with(kit.accumulator, n, random);
    for (const Activation activation : kActivations) {
      for (int bits = 0; bits < 16; ++bits) {  // which sums are wanted, and whether z is there
        Guarded dz(kit.operand, n), r_next(before), bias(before), s(before);
        const auto pick = [&](int bit, Guarded& sum) { return bits & bit ? sum.data() : nullptr; };
        kit.kernels.backward(n, grad.data(), bits & 8 ? z.data() : nullptr, with.row(activation),
                             dz.data(), {pick(1, r_next), pick(2, bias), pick(4, s)});
        const auto z_of = [&](int64_t i) { return bits & 8 ? z[i] : 0; };
        const auto y = [&](int64_t i) { return with.s[i] * z_of(i) + with.bias[i]; };
        const auto dy = [&](int64_t i) {
          return grad[i] * with.r_next[i] * with.mask[i] * slope(activation, y(i));
        };
        const auto sum = [&](int bit, const char* name, const Guarded& got, const auto& term) {
          const double allowed = bits & bit ? tolerance(kit, activation) : 0;
          expect_row(
              kit, name, got, [&](int64_t i) { return before[i] + (bits & bit ? term(i) : 0); },
              allowed);
        };
        expect_row(
            kit, "dz", dz, [&](int64_t i) { return dy(i) * with.s[i]; },
            2 * tolerance(kit, activation));
        sum(1, "dr_next", r_next,
            [&](int64_t i) { return grad[i] * with.mask[i] * value(activation, y(i)); });
        sum(2, "dbias", bias, dy);
        sum(4, "ds", s, [&](int64_t i) { return dy(i) * z_of(i); });
      }
    }
  });
}

void input_grad() {
  for_all([](const Kit& kit, int64_t n, Random& random) {
    const Guarded g(kit.accumulator, n, [&] { return long_value(random); });
    const Guarded x(kit.storage, n, [&] { return random.quarter(); });
    const Guarded r(kit.accumulator, n, [&] { return random.power(); });
    const Guarded before(kit.accumulator, n, [&] { return random.quarter(); });
    for (int bits = 0; bits < 16; ++bits) {
      Guarded dx(kit.storage, n), dx_sum(before), dr(before);
      kit.kernels.input_grad(n, g.data(), x.data(), bits & 1 ? r.data() : nullptr,
                             bits & 2 ? dx.data() : nullptr, bits & 4 ? dx_sum.data() : nullptr,
                             bits & 8 ? dr.data() : nullptr);
      const auto scaled = [&](int64_t i) { return g[i] * (bits & 1 ? r[i] : 1); };
      if (bits & 2) expect_row(kit, "dx", dx, scaled);
      expect_row(kit, "dx_sum", dx_sum,
                 [&](int64_t i) { return before[i] + (bits & 4 ? scaled(i) : 0); });
      expect_row(kit, "dr", dr,
                 [&](int64_t i) { return before[i] + (bits & 8 ? x[i] * g[i] : 0); });
    }
  });
}

void weight_grad() {
  for_all([](const Kit& kit, int64_t n, Random& random) {
    const Guarded d(kit.accumulator, n, [&] { return long_value(random); });
    const Guarded w(kit.storage, n, [&] { return random.quarter(); });
    const Guarded r(kit.accumulator, n, [&] { return random.quarter(); });
    const Guarded before(kit.accumulator, n, [&] { return random.quarter(); });
    for (int bits = 0; bits < 4; ++bits) {
      Guarded dw(before), dr(before);
      kit.kernels.weight_grad(n, d.data(), w.data(), r.data(), bits & 1 ? dw.data() : nullptr,
                              bits & 2 ? dr.data() : nullptr);
      expect_row(kit, "dw", dw,
                 [&](int64_t i) { return before[i] + (bits & 1 ? d[i] * r[i] : 0); });
      expect_row(kit, "dr", dr,
                 [&](int64_t i) { return before[i] + (bits & 2 ? d[i] * w[i] : 0); });
    }
  });
}

void add_and_dot() {
  for_all([](const Kit& kit, int64_t n, Random& random) {
    const Guarded operand(kit.operand, n, [&] { return random.quarter(); });
    const Guarded from(kit.accumulator, n, [&] { return long_value(random); });
    const Guarded before(kit.accumulator, n, [&] { return random.quarter(); });
    Guarded sum(before);
    kit.kernels.add(n, from.data(), sum.data());
    expect_row(kit, "sum", sum, [&](int64_t i) { return before[i] + from[i]; });
    double want = 0;
    for (int64_t i = 0; i < n; ++i) want += operand[i] * from[i];
    const double got = kit.kernels.dot(n, operand.data(), from.data());
    EXPECT(got == want, kit.isa, " ", dtype_name(kit.storage), " dot of ", n, ": got ", got,
           ", want ", want);
  });
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"scale_input", scale_input},
                    {"finish", finish},
                    {"backward", backward},
                    {"input_grad", input_grad},
                    {"weight_grad", weight_grad},
                    {"add and dot", add_and_dot}});
}
