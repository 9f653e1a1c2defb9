// A layer of layer_problem.h run by the library and by loops.
#pragma once

#include "layer_problem.h"

namespace thrifty::test {

struct Gradients {
  Guarded x, weight, r, s, bias, r_next;

  static constexpr const char* kNames[] = {"dx", "dweight", "dr", "ds", "dbias", "dr_next"};
  std::array<const Guarded*, 6> all() const { return {&x, &weight, &r, &s, &bias, &r_next}; }
  std::array<Guarded*, 6> all() { return {&x, &weight, &r, &s, &bias, &r_next}; }
};

inline Guarded like(const Tensor& tensor) {
  return tensor.present() ? Guarded(tensor.data.dtype(), tensor.data.size()) : Guarded();
}

struct Forward {
  Guarded out, z;
};

inline Forward run_forward(const LayerProblem& p, bool saves_z, ParallelFor parallel) {
  const int64_t size = p.spec.rows() * p.spec.out;
  Forward f{Guarded(p.spec.dtype, size), Guarded(p.spec.dtype, saves_z ? size : 0)};
  linear_fwd(p.layer(), f.out.data(), saves_z ? f.z.data() : nullptr, parallel);
  return f;
}

// `needs`: bit i for the i-th of Gradients::kNames; a gradient nobody asked for stays NaN.
inline Gradients run_backward(const LayerProblem& p, const Guarded* z, int needs,
                              ParallelFor parallel) {
  Gradients g{like(p.x), like(p.weight), like(p.r), like(p.s), like(p.bias), like(p.r_next)};
  const Tensor* arguments[] = {&p.x, &p.weight, &p.r, &p.s, &p.bias, &p.r_next};
  void* to[6] = {};
  for (int i = 0; i < 6; ++i) {
    if (needs >> i & 1 && arguments[i]->present()) to[i] = g.all()[size_t(i)]->data();
  }
  linear_bwd(p.layer(), p.grad.data(), z != nullptr ? z->data() : nullptr,
             {to[0], to[1], to[2], to[3], to[4], to[5]}, parallel);
  return g;
}

inline void add(Guarded& sum, int64_t i, double value) { sum.set(i, sum[i] + value); }

// All gradients in double; z as forward saved it, or null where backward needs none.
inline Gradients loop_backward(const LayerProblem& p, const Guarded* z) {
  const LayerSpec& spec = p.spec;
  const auto zeros = [](const Tensor& t) {
    return Guarded(Dtype::kFloat64, t.present() ? t.data.size() : 0, [] { return 0.0; });
  };
  Gradients g{zeros(p.x), zeros(p.weight), zeros(p.r), zeros(p.s), zeros(p.bias), zeros(p.r_next)};
  for (int64_t row = 0; row < spec.rows(); ++row) {
    const int64_t j = spec.member(row);
    std::vector<double> du(size_t(spec.in), 0.0);
    for (int64_t o = 0; o < spec.out; ++o) {
      const int64_t at = j * spec.out + o;
      const double zi = z != nullptr ? (*z)[row * spec.out + o] : 0;
      const double y = p.y(row, o, zi), dh = p.grad[row * spec.out + o] * p.mask(row, o);
      const double dy = dh * LayerProblem::or_one(p.r_next, at) * p.slope(y);
      const double dz = dy * LayerProblem::or_one(p.s, at);
      if (p.r_next.present()) add(g.r_next, at, dh * p.activation(y));
      if (p.bias.present()) add(g.bias, p.bias_at(j, o), dy);
      if (p.s.present()) add(g.s, at, dy * zi);
      for (int64_t i = 0; i < spec.in; ++i) {
        const int64_t w = p.weight_at(j, i, o);
        add(g.weight, w, dz * p.u(row, i));
        du[size_t(i)] += dz * p.weight[w];
      }
    }
    for (int64_t i = 0; i < spec.in; ++i) {
      const int64_t at = j * spec.in + i;
      if (p.r.present()) add(g.r, at, p.x[p.x_at(row, i)] * du[size_t(i)]);
      add(g.x, p.x_at(row, i), du[size_t(i)] * LayerProblem::or_one(p.r, at));
    }
  }
  return g;
}

}  // namespace thrifty::test
