// The activations of tiles.h on CUDA: value and slopes, as phi.h has them on vectors.
#pragma once

#include "core/special.cuh"
#include "moe/tiles.h"

namespace thrifty::moe::cuda {

using namespace thrifty::cuda;

template <class A>
struct PhiSlopes {
  A value, gate, up;  // phi, dphi/dg, dphi/du
};

// f(g); comparisons let NaN through
template <class A>
THRIFTY_DEVICE A gate_value(Gate gate, A g, A alpha) {
  switch (gate) {
    case Gate::kSilu: return g * sigmoid(g);
    case Gate::kOai: return g * sigmoid(alpha * g);
    case Gate::kGelu: return g * normal_cdf(g);
    case Gate::kGeluTanh: return A(0.5) * g * (A(1) + gelu_tanh_inner(g));
    case Gate::kRelu2: return g < A(0) ? A(0) : g * g;
    default: return g < A(0) ? A(0) : g;
  }
}

template <class A>
THRIFTY_DEVICE A gate_slope(Gate gate, A g, A alpha) {
  switch (gate) {
    case Gate::kSilu:
    case Gate::kOai: {
      const A a = gate == Gate::kSilu ? A(1) : alpha, p = sigmoid(a * g);
      return p * (A(1) + a * g * (A(1) - p));
    }
    case Gate::kGelu: {
      const A density = exponential(A(-0.5) * g * g) * A(0.39894228040143268);
      return normal_cdf(g) + g * density;
    }
    case Gate::kGeluTanh: {
      const A t = gelu_tanh_inner(g);
      const A inner = A(0.79788456080286536) * (A(1) + A(0.134145) * g * g);
      return A(0.5) * (A(1) + t) + A(0.5) * g * (A(1) - t * t) * inner;
    }
    case Gate::kRelu2: return g <= A(0) ? A(0) : A(2) * g;
    default: return g <= A(0) ? A(0) : A(1);
  }
}

template <class A>
struct PhiOf {
  Gate gate;
  bool gated;
  A alpha, limit;

  THRIFTY_DEVICE explicit PhiOf(const Phi& phi)
      : gate(phi.gate), gated(phi.gated), alpha(A(phi.alpha)), limit(A(phi.limit)) {}

  // The other factor: u, u + 1, or 1 where there is no up half.
  THRIFTY_DEVICE A factor(A u) const {
    if (!gated) return A(1);
    u = u > limit ? limit : u < -limit ? -limit : u;
    return gate == Gate::kOai ? u + A(1) : u;
  }
  THRIFTY_DEVICE A value(A g, A u) const {
    return gate_value(gate, g > limit ? limit : g, alpha) * factor(u);
  }
  THRIFTY_DEVICE PhiSlopes<A> slopes(A g, A u) const {
    const A bounded = g > limit ? limit : g;
    const A f = gate_value(gate, bounded, alpha), by = factor(u);
    return {f * by, g > limit ? A(0) : gate_slope(gate, bounded, alpha) * by,
            u > limit || u < -limit ? A(0) : f};
  }
};

}  // namespace thrifty::moe::cuda
