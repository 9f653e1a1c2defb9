// One element of an array whose dtype is known at run time: for kernels that spend no time on it.
#pragma once

#include "core/cuda/convert.cuh"
#include "core/cuda/memory.cuh"
#include "core/dtype.h"

namespace thrifty::cuda {

// What sums of T are kept in.
template <class T>
using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class W>
THRIFTY_DEVICE W load_element(const void* data, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::kBFloat16: return W(to_float(static_cast<const bf16*>(data)[i]));
    case Dtype::kFloat16: return W(to_float(static_cast<const fp16*>(data)[i]));
    case Dtype::kFloat64: return W(static_cast<const double*>(data)[i]);
    default: return W(static_cast<const float*>(data)[i]);
  }
}

template <class W>
THRIFTY_DEVICE void store_element(void* data, Dtype dtype, int64_t i, W value) {
  switch (dtype) {
    case Dtype::kBFloat16: static_cast<bf16*>(data)[i] = from_float<bf16>(value); return;
    case Dtype::kFloat16: static_cast<fp16*>(data)[i] = from_float<fp16>(value); return;
    case Dtype::kFloat64: static_cast<double*>(data)[i] = double(value); return;
    default: static_cast<float*>(data)[i] = float(value);
  }
}

THRIFTY_DEVICE int64_t load_integer(const void* data, Dtype dtype, int64_t i) {
  switch (dtype) {
    case Dtype::kInt64: return static_cast<const int64_t*>(data)[i];
    case Dtype::kUInt8: return static_cast<const uint8_t*>(data)[i];
    default: return static_cast<const int32_t*>(data)[i];
  }
}

}  // namespace thrifty::cuda
