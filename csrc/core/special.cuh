// The functions that activations and softmax are made of, for float and double.
#pragma once

#include "core/cuda/math.cuh"

namespace thrifty::cuda {

template <class A>
THRIFTY_DEVICE A exponential(A x) {
  if constexpr (sizeof(A) == 4) {
    return expf(x);
  } else {
    return exp(x);
  }
}

template <class A>
THRIFTY_DEVICE A sigmoid(A y) {
  return A(1) / (A(1) + exponential(-y));
}

// Phi, the distribution function of the standard normal.
template <class A>
THRIFTY_DEVICE A normal_cdf(A y) {
  const A scaled = y * A(0.70710678118654752);
  if constexpr (sizeof(A) == 4) {
    return A(0.5) * (A(1) + erff(scaled));
  } else {
    return A(0.5) * (A(1) + erf(scaled));
  }
}

// tanh(c (y + 0.044715 y^3)) with c = sqrt(2 / pi)
template <class A>
THRIFTY_DEVICE A gelu_tanh_inner(A y) {
  const A u = A(0.79788456080286536) * (y + A(0.044715) * y * y * y);
  return A(1) - A(2) / (A(1) + exponential(A(2) * u));
}

}  // namespace thrifty::cuda
