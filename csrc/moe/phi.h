// The activations of tiles.h on vectors: value and slopes, for tiles_isa.cpp alone.
#pragma once

#include "core/simd_math.h"
#include "moe/tiles.h"

namespace thrifty::THRIFTY_ISA {
namespace {

using moe::Gate;
using moe::Phi;

template <class T>
struct Slopes {
  Vec<T> value, gate, up;  // phi, dphi/dg, dphi/du
};

// Phi, the distribution function of the standard normal
template <class T>
THRIFTY_INLINE Vec<T> normal_cdf(Vec<T> y) {
  return T(0.5) * (T(1) + erf(y * T(0.70710678118654752)));
}

// tanh(c (y + 0.044715 y^3)) with c = sqrt(2 / pi)
template <class T>
THRIFTY_INLINE Vec<T> gelu_tanh(Vec<T> y) {
  return tanh<T>(T(0.79788456080286536) * (y + T(0.044715) * y * y * y));
}

// f(g) and f'(g)
template <class T, Gate kGate>
THRIFTY_INLINE Vec<T> gate_value(Vec<T> g, T alpha) {
  if constexpr (kGate == Gate::kSilu) {
    return g * sigmoid<T>(g);
  } else if constexpr (kGate == Gate::kOai) {
    return g * sigmoid<T>(alpha * g);
  } else if constexpr (kGate == Gate::kGelu) {
    return g * normal_cdf<T>(g);
  } else if constexpr (kGate == Gate::kGeluTanh) {
    return T(0.5) * g * (T(1) + gelu_tanh<T>(g));
  } else {  // comparisons that let NaN through
    const Vec<T> positive = g < T(0) ? Vec<T>{} : g;
    return kGate == Gate::kRelu2 ? positive * positive : positive;
  }
}

template <class T, Gate kGate>
THRIFTY_INLINE Vec<T> gate_slope(Vec<T> g, T alpha) {
  if constexpr (kGate == Gate::kSilu) {
    const Vec<T> p = sigmoid<T>(g);
    return p * (T(1) + g * (T(1) - p));
  } else if constexpr (kGate == Gate::kOai) {
    const Vec<T> p = sigmoid<T>(alpha * g);
    return p * (T(1) + alpha * g * (T(1) - p));
  } else if constexpr (kGate == Gate::kGelu) {
    return normal_cdf<T>(g) + g * (exp(T(-0.5) * g * g) * T(0.39894228040143268));
  } else if constexpr (kGate == Gate::kGeluTanh) {
    const Vec<T> t = gelu_tanh<T>(g);
    const Vec<T> inner = T(0.79788456080286536) * (T(1) + T(0.134145) * g * g);
    return T(0.5) * (T(1) + t) + T(0.5) * g * (T(1) - t * t) * inner;
  } else if constexpr (kGate == Gate::kRelu2) {
    return g <= T(0) ? Vec<T>{} : T(2) * g;
  } else {
    return g <= T(0) ? Vec<T>{} : splat(T(1));
  }
}

// The other factor: u, u + 1, or 1 where there is no up half.
template <class T, Gate kGate>
THRIFTY_INLINE Vec<T> up_factor(Vec<T> u, bool gated, T limit) {
  if (!gated) return splat(T(1));
  u = clamp<T>(u, -limit, limit);
  return kGate == Gate::kOai ? u + T(1) : u;
}

template <class T>
THRIFTY_INLINE Vec<T> below(Vec<T> x, T limit) {
  return x > limit ? splat(limit) : x;
}

template <class T, Gate kGate>
THRIFTY_INLINE Vec<T> phi_value(Vec<T> g, Vec<T> u, const Phi& phi) {
  const T limit = T(phi.limit);
  const Vec<T> f = gate_value<T, kGate>(below<T>(g, limit), T(phi.alpha));
  return f * up_factor<T, kGate>(u, phi.gated, limit);
}

template <class T, Gate kGate>
THRIFTY_INLINE Slopes<T> phi_slopes(Vec<T> g, Vec<T> u, const Phi& phi) {
  const T limit = T(phi.limit), alpha = T(phi.alpha);
  const Vec<T> bounded = below<T>(g, limit);
  const Vec<T> f = gate_value<T, kGate>(bounded, alpha);
  const Vec<T> factor = up_factor<T, kGate>(u, phi.gated, limit);
  const Vec<T> slope = gate_slope<T, kGate>(bounded, alpha) * factor;
  const Vec<T> up = u > limit ? Vec<T>{} : f;
  return {f * factor, g > limit ? Vec<T>{} : slope, u < -limit ? Vec<T>{} : up};
}

template <Gate kGate>
struct GateTag {
  static constexpr Gate value = kGate;
};

template <class Body>
THRIFTY_INLINE void with_gate(Gate gate, const Body& body) {
  switch (gate) {
    case Gate::kSilu: return body(GateTag<Gate::kSilu>{});
    case Gate::kGelu: return body(GateTag<Gate::kGelu>{});
    case Gate::kGeluTanh: return body(GateTag<Gate::kGeluTanh>{});
    case Gate::kRelu: return body(GateTag<Gate::kRelu>{});
    case Gate::kRelu2: return body(GateTag<Gate::kRelu2>{});
    case Gate::kOai: return body(GateTag<Gate::kOai>{});
  }
}

}  // namespace
}  // namespace thrifty::THRIFTY_ISA
