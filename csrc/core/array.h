// What an argument looks like to the checks: a pointer, a dtype, a shape and strides, whichever
// edge it came through.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/dtype.h"

namespace thrifty {

// An absent optional argument is an Array without dtype: `if (bias)` tells.
struct Array {
  static constexpr int kMaxDims = 8;

  void* data = nullptr;
  Dtype dtype = Dtype::kOther;
  int ndim = -1;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> strides{};  // in elements

  explicit operator bool() const { return ndim >= 0; }
  int64_t size(int dim) const { return shape[dim < 0 ? ndim + dim : dim]; }
  int64_t stride(int dim) const { return strides[dim < 0 ? ndim + dim : dim]; }
  int64_t numel() const;
};

std::string shape_text(const Array& array);  // "(32, 512)", "None" when absent

}  // namespace thrifty
