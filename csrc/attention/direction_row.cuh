// A direction as a warp makes it: lane l has columns l, l + 32, ....
#pragma once

#include "attention/directions_cuda.h"
#include "attention/plan_nodes.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"

namespace thrifty::attention::cuda {

constexpr int kColumnsPerLane = 8;  // d <= 256

struct WarpRow {
  float value[kColumnsPerLane] = {};

  static THRIFTY_DEVICE int column(int i) { return lane_index() + i * kWarpSize; }

  // A row of x minus the mean, if there is one.
  THRIFTY_DEVICE void load_centred(const HeadRows& x, int64_t at, const float* mean) {
#pragma unroll
    for (int i = 0; i < kColumnsPerLane; ++i) {
      const int c = column(i);
      value[i] = c < x.d ? load_element<float>(x.data, x.dtype, at + c) : 0.0f;
      if (mean != nullptr && c < x.d) value[i] -= mean[c];
    }
  }
  // x / |x|, zeros where |x| is 0. The squares of small numbers need double.
  THRIFTY_DEVICE void make_unit() {
    double norm = 0;
#pragma unroll
    for (int i = 0; i < kColumnsPerLane; ++i) norm += double(value[i]) * value[i];
    norm = warp_sum(norm);
    const float scale = norm > 0 ? float(1 / sqrt(norm)) : 0.0f;
#pragma unroll
    for (int i = 0; i < kColumnsPerLane; ++i) value[i] *= scale;
  }
  THRIFTY_DEVICE bool any() const {
    bool found = false;
#pragma unroll
    for (int i = 0; i < kColumnsPerLane; ++i) found = found || value[i] != 0;
    return warp_any(found);
  }
};

// Column c of direction number `at`, in parts; returns what the parts add up to.
template <class T>
THRIFTY_DEVICE float store_parts(void* parts, int64_t at, int64_t plane, float value) {
  T* const to = static_cast<T*>(parts) + at;
  const T high = from_float<T>(value);
  *to = high;
  if constexpr (sizeof(T) == 4) return value;
  const T low = from_float<T>(value - to_float(high));
  to[plane] = low;
  return to_float(high) + to_float(low);
}
THRIFTY_DEVICE float store_direction(const DirectionArrays& to, Dtype dtype, int64_t head,
                                     int64_t number, int c, float value) {
  const int64_t plane = to.count * to.width;
  const int64_t at = head * to.split * plane + number * to.width + c;
  switch (dtype) {
    case Dtype::kBFloat16: return store_parts<bf16>(to.parts, at, plane, value);
    case Dtype::kFloat16: return store_parts<fp16>(to.parts, at, plane, value);
    default: return store_parts<float>(to.parts, at, plane, value);
  }
}

// All columns, zeros behind them, and the product with the mean.
THRIFTY_DEVICE void store_row(const DirectionArrays& to, Dtype dtype, int64_t head, int64_t number,
                              const WarpRow& row, const float* mean, int d) {
  float bias = 0;
#pragma unroll
  for (int i = 0; i < kColumnsPerLane; ++i) {
    const int c = WarpRow::column(i);
    if (c >= to.width) continue;
    const float stored = store_direction(to, dtype, head, number, c, row.value[i]);
    if (mean != nullptr && c < d) bias += stored * mean[c];
  }
  bias = warp_sum(bias);
  if (lane_index() == 0) to.bias[head * to.count + number] = bias;
}

}  // namespace thrifty::attention::cuda
