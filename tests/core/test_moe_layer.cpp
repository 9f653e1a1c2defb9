// moe_mlp forward and backward against loops in double, on every build of the kernels: idle
// experts, ids of none, one token, ragged tiles, several chunks of one expert, all layouts.
#include <functional>

#include "check.h"
#include "layer_problem.h"
#include "moe/mlp.h"

namespace thrifty::test {
namespace {

using moe::MlpArgs;
using moe::MlpGrads;

struct Shape {
  int64_t tokens, hidden, inner, experts, top_k;
};

// 512 rows are a chunk, 8 the most that run without panels; 32 is the depth of AMX's tiles.
constexpr Shape kShapes[] = {{0, 3, 5, 2, 1},    {1, 1, 1, 1, 1},     {1, 64, 96, 4, 2},
                             {9, 33, 17, 5, 3},  {40, 31, 33, 2, 2},  {70, 64, 100, 3, 2},
                             {90, 96, 64, 3, 1}, {300, 17, 20, 2, 2}, {530, 8, 35, 1, 1}};

struct Form {
  const char* activation;
  bool gated, transposed, interleaved, biases;
};
constexpr Form kForms[] = {{"swiglu", true, false, false, false},
                           {"swiglu_oai", true, true, true, true},
                           {"gelu_tanh", false, true, false, true},
                           {"relu2", false, false, false, true}};

// No z reaches the limit: a clamp has a kink, where a rounding changes the slope. The Python tests
// have it, on numbers that are exact.
constexpr double kAlpha = 1.7, kLimit = 20;

double sigmoid(double g) { return 1 / (1 + std::exp(-g)); }

double phi(const Form& form, double g, double u) {
  const std::string name = form.activation;
  if (name == "swiglu") return g * sigmoid(g) * u;
  if (name == "relu2") return g > 0 ? g * g : 0;
  if (name == "gelu_tanh") {
    return 0.5 * g * (1 + std::tanh(std::sqrt(2 / M_PI) * (g + 0.044715 * g * g * g)));
  }
  g = std::min(g, kLimit), u = std::clamp(u, -kLimit, kLimit);
  return (u + 1) * g * sigmoid(kAlpha * g);
}

// By central differences: exact to 1e-9, which is enough for formats up to float32.
double slope(const std::function<double(double)>& f, double at) {
  const double h = 1e-5;
  return (f(at + h) - f(at - h)) / (2 * h);
}

struct Problem {
  Shape shape;
  Form form;
  Tensor x, w1, w2, b1, b2, weights, ids, grad;
  int64_t up_rows;

  Problem(const Shape& s, const Form& f, Dtype dtype, Random& random)
      : shape(s), form(f), up_rows(f.gated ? 2 * s.inner : s.inner) {
    const auto normal = [&](double scale) {
      return [&random, scale] { return random.uniform(-1.7, 1.7) * scale; };
    };
    const double h = 1 / std::sqrt(double(s.hidden)), i = 1 / std::sqrt(double(s.inner));
    x = Tensor(dtype, {s.tokens, s.hidden}, normal(1));
    grad = Tensor(dtype, {s.tokens, s.hidden}, normal(1));
    weights = Tensor(dtype, {s.tokens, s.top_k}, normal(1));
    w1 = Tensor(dtype, three(s.experts, up_rows, s.hidden), normal(h));
    w2 = Tensor(dtype, three(s.experts, s.hidden, s.inner), normal(i));
    if (f.biases) {
      b1 = Tensor(dtype, {s.experts, up_rows}, normal(0.5));
      b2 = Tensor(dtype, {s.experts, s.hidden}, normal(0.5));
    }
    ids = Tensor(Dtype::kFloat64, {s.tokens, s.top_k}, [] { return 0.0; });
    for (int64_t slot = 0; slot < s.tokens * s.top_k; ++slot) {
      // Expert 1, where there are several, is idle; an id in nine is no expert's.
      int64_t id = int64_t(random.bits() % uint64_t(s.experts));
      if (s.experts > 2 && id == 1) id = 2;
      if (random.bits() % 9 == 0) id = random.bits() & 1 ? -1 : s.experts;
      static_cast<int64_t*>(ids.data.data())[slot] = id;
    }
  }

  std::vector<int64_t> three(int64_t e, int64_t n, int64_t k) const {
    return form.transposed ? std::vector{e, k, n} : std::vector{e, n, k};
  }
  int64_t w1_at(int64_t e, int64_t row, int64_t k) const {
    return form.transposed ? (e * shape.hidden + k) * up_rows + row
                           : (e * up_rows + row) * shape.hidden + k;
  }
  int64_t w2_at(int64_t e, int64_t row, int64_t k) const {
    return form.transposed ? (e * shape.inner + k) * shape.hidden + row
                           : (e * shape.hidden + row) * shape.inner + k;
  }
  int64_t gate_row(int64_t i) const { return form.gated && form.interleaved ? 2 * i : i; }
  int64_t up_row(int64_t i) const {
    return !form.gated ? i : form.interleaved ? 2 * i + 1 : shape.inner + i;
  }
  int64_t id(int64_t slot) const { return static_cast<const int64_t*>(ids.data.data())[slot]; }

  moe::Mlp mlp() const {
    Array routing = ids.array();
    routing.dtype = Dtype::kInt64;
    MlpArgs args{.x = x.array(),
                 .w1 = w1.array(),
                 .w2 = w2.array(),
                 .ids = routing,
                 .weights = weights.array(),
                 .b1 = b1.array(),
                 .b2 = b2.array()};
    args.activation = form.activation;
    args.transposed = form.transposed, args.interleaved = form.interleaved;
    args.alpha = kAlpha, args.limit = kLimit;
    return moe::check_moe_mlp(args);
  }
};

// Results and gradients in double; each as long as its argument.
struct Exact {
  std::vector<double> out, x, w1, w2, weights, b1, b2;

  explicit Exact(const Problem& p) {
    const auto [tokens, hidden, inner, experts, top_k] = p.shape;
    out.resize(size_t(tokens * hidden)), x.resize(out.size());
    w1.resize(size_t(experts * p.up_rows * hidden)), w2.resize(size_t(experts * hidden * inner));
    b1.resize(size_t(experts * p.up_rows)), b2.resize(size_t(experts * hidden));
    weights.resize(size_t(tokens * top_k));
    for (int64_t slot = 0; slot < tokens * top_k; ++slot) {
      if (p.id(slot) >= 0 && p.id(slot) < experts) add(p, slot / top_k, slot, p.id(slot));
    }
  }

  double z(const Problem& p, int64_t t, int64_t e, int64_t row) const {
    double sum = p.form.biases ? p.b1[e * p.up_rows + row] : 0;
    for (int64_t h = 0; h < p.shape.hidden; ++h) {
      sum += p.w1[p.w1_at(e, row, h)] * p.x[t * p.shape.hidden + h];
    }
    return sum;
  }

  void add(const Problem& p, int64_t t, int64_t slot, int64_t e) {
    const int64_t hidden = p.shape.hidden;
    const double s = p.weights[slot];
    for (int64_t h = 0; p.form.biases && h < hidden; ++h) {
      const double d = p.grad[t * hidden + h];
      out[size_t(t * hidden + h)] += s * p.b2[e * hidden + h];
      weights[size_t(slot)] += d * p.b2[e * hidden + h];
      b2[size_t(e * hidden + h)] += s * d;
    }
    for (int64_t i = 0; i < p.shape.inner; ++i) {
      const int64_t gate = p.gate_row(i), up = p.up_row(i);
      const double g = z(p, t, e, gate), u = p.form.gated ? z(p, t, e, up) : 0;
      const double a = phi(p.form, g, u);
      double da = 0;
      for (int64_t h = 0; h < hidden; ++h) {
        const double d = p.grad[t * hidden + h], w = p.w2[p.w2_at(e, h, i)];
        out[size_t(t * hidden + h)] += s * w * a;
        w2[size_t(p.w2_at(e, h, i))] += s * a * d;
        da += w * d;
      }
      weights[size_t(slot)] += da * a;
      add_row(p, t, e, gate, s * da * slope([&](double v) { return phi(p.form, v, u); }, g));
      if (!p.form.gated) continue;
      add_row(p, t, e, up, s * da * slope([&](double v) { return phi(p.form, g, v); }, u));
    }
  }

  void add_row(const Problem& p, int64_t t, int64_t e, int64_t row, double dz) {
    b1[size_t(e * p.up_rows + row)] += dz;
    for (int64_t h = 0; h < p.shape.hidden; ++h) {
      w1[size_t(p.w1_at(e, row, h))] += dz * p.x[t * p.shape.hidden + h];
      x[size_t(t * p.shape.hidden + h)] += dz * p.w1[p.w1_at(e, row, h)];
    }
  }
};

double tolerance(Dtype dtype) {
  return dtype == Dtype::kBFloat16  ? 2e-2
         : dtype == Dtype::kFloat16 ? 3e-3
         : dtype == Dtype::kFloat32 ? 1e-5
                                    : 1e-8;
}

void expect_near(const char* what, const Problem& p, const Guarded& got,
                 const std::vector<double>& want) {
  double error = 0, norm = 0, worst = 0, largest = 0;
  for (int64_t i = 0; i < got.size(); ++i) {
    const double w = want[size_t(i)], gap = std::isnan(got[i]) ? INFINITY : std::fabs(got[i] - w);
    error += gap * gap, norm += w * w;
    worst = std::max(worst, gap), largest = std::max(largest, std::fabs(w));
  }
  // Sums of order 1 that cancel keep the roundings of their terms.
  norm = std::max(norm, 0.25 * double(got.size())), largest = std::max(largest, 0.5);
  const double allowed = tolerance(got.dtype());
  EXPECT(got.intact() && std::sqrt(error) <= allowed * std::sqrt(norm) &&
             worst <= 6 * allowed * largest,
         what, " ", dtype_name(got.dtype()), " ", p.form.activation, " T ", p.shape.tokens, " H ",
         p.shape.hidden, " I ", p.shape.inner, " E ", p.shape.experts, ": error ", std::sqrt(error),
         " of ", std::sqrt(norm), ", worst ", worst, " of ", largest);
}

struct Results {
  Guarded out, out_kept, z, x, w1, w2, weights, b1, b2;

  explicit Results(const Problem& p, bool recompute, ParallelFor parallel)
      : out(p.x.data),
        out_kept(p.x.data),
        z(p.x.data.dtype(), slots(p) * p.up_rows),
        x(p.x.data),
        w1(p.w1.data),
        w2(p.w2.data),
        weights(p.weights.data),
        b1(p.b1.data),
        b2(p.b2.data) {
    const moe::Mlp mlp = p.mlp();
    for (Guarded* result : all()) result->fill_nan();
    moe::moe_mlp_fwd(mlp, out.data(), nullptr, parallel);
    moe::moe_mlp_fwd(mlp, out_kept.data(), z.data(), parallel);
    MlpGrads grads{x.data(), w1.data(), w2.data(), weights.data()};
    if (p.form.biases) grads.b1 = b1.data(), grads.b2 = b2.data();
    moe::moe_mlp_bwd(mlp, p.grad.data.data(), recompute ? nullptr : z.data(), grads, parallel);
  }
  static int64_t slots(const Problem& p) { return p.shape.tokens * p.shape.top_k; }
  std::vector<Guarded*> all() { return {&out, &out_kept, &z, &x, &w1, &w2, &weights, &b1, &b2}; }
};

void forward_and_backward() {
  Random random(1);
  set_num_threads(3);
  for (const Shape& shape : kShapes) {
    for (const Form& form : kForms) {
      for (const Dtype dtype :
           {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64}) {
        const Problem p(shape, form, dtype, random);
        const Exact exact(p);
        Results got(p, false, serial), threads(p, false, pool), again(p, true, pool);
        expect_near("out", p, got.out, exact.out);
        expect_near("out beside z", p, got.out_kept, exact.out);
        expect_near("dx", p, got.x, exact.x);
        expect_near("dw1", p, got.w1, exact.w1);
        expect_near("dw2", p, got.w2, exact.w2);
        expect_near("dweights", p, got.weights, exact.weights);
        if (form.biases) expect_near("db1", p, got.b1, exact.b1);
        if (form.biases) expect_near("db2", p, got.b2, exact.b2);
        for (size_t i = 0; i < got.all().size(); ++i) {
          EXPECT(got.all()[i]->same_bytes(*threads.all()[i]), "result ", i, " on three threads");
          EXPECT(got.all()[i]->same_bytes(*again.all()[i]), "result ", i, " with z computed again");
        }
      }
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"forward and backward", forward_and_backward}});
}
