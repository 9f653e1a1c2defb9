// Activations of the layers and their derivatives, as in rows_isa.cpp. NaN goes through: relu
// compares so that it does.
#pragma once

#include "core/special.cuh"
#include "ensemble/rows.h"

namespace thrifty::ensemble::cuda {

using namespace thrifty::cuda;

template <class A>
THRIFTY_DEVICE A activation_value(Activation activation, A y) {
  switch (activation) {
    case Activation::kRelu: return y < A(0) ? A(0) : y;
    case Activation::kSilu: return y * sigmoid(y);
    case Activation::kGelu: return y * normal_cdf(y);
    case Activation::kGeluTanh: return A(0.5) * y * (A(1) + gelu_tanh_inner(y));
    default: return y;
  }
}

template <class A>
THRIFTY_DEVICE A activation_slope(Activation activation, A y) {
  switch (activation) {
    case Activation::kRelu: return y <= A(0) ? A(0) : A(1);
    case Activation::kSilu: {
      const A p = sigmoid(y);
      return p * (A(1) + y * (A(1) - p));
    }
    case Activation::kGelu: {
      const A density = exponential(A(-0.5) * y * y) * A(0.39894228040143268);
      return normal_cdf(y) + y * density;
    }
    case Activation::kGeluTanh: {
      const A t = gelu_tanh_inner(y);
      const A du = A(0.79788456080286536) * (A(1) + A(0.134145) * y * y);
      return A(0.5) * (A(1) + t) + A(0.5) * y * (A(1) - t * t) * du;
    }
    default: return A(1);
  }
}

}  // namespace thrifty::ensemble::cuda
