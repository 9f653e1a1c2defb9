// An argument of a kernel with random values: once as the kernel sees it, in its storage format and
// in memory of exactly the right size, and once in float64 for the CPU's functions, whose results
// are what is expected.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/array.h"
#include "hostcuda/harness.h"

namespace thrifty::cuda::testing {

using Values = std::vector<double>;

inline void encode(Dtype dtype, double value, unsigned char* to) {
  const auto put = [&](const auto& element) {
    std::memcpy(to, static_cast<const void*>(&element), sizeof(element));
  };
  switch (dtype) {
    case Dtype::kBFloat16: return put(from_float<bf16>(value));
    case Dtype::kFloat16: return put(from_float<fp16>(value));
    case Dtype::kFloat32: return put(float(value));
    case Dtype::kInt32: return put(int32_t(value));
    case Dtype::kInt64: return put(int64_t(value));
    default: return put(value);
  }
}

inline double decode(Dtype dtype, const unsigned char* from) {
  const auto get = [&](auto element) {
    std::memcpy(static_cast<void*>(&element), from, sizeof(element));
    return double(as_double(element));
  };
  switch (dtype) {
    case Dtype::kBFloat16: return get(bf16());
    case Dtype::kFloat16: return get(fp16());
    case Dtype::kFloat32: return get(float());
    case Dtype::kInt32: return get(int32_t());
    default: return get(double());
  }
}

inline Values decode(Dtype dtype, const Bytes& bytes) {
  Values values;
  for (size_t i = 0; i < bytes.size(); i += size_t(dtype_size(dtype))) {
    values.push_back(decode(dtype, bytes.data() + i));
  }
  return values;
}

inline int64_t count_of(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

class DeviceArray {
 public:
  DeviceArray() = default;  // absent
  // `swapped`: the last two dimensions lie the other way round. `skew`: elements before the first.
  // `pad`: elements between rows.
  DeviceArray(Dtype dtype, std::vector<int64_t> shape, unsigned seed, bool swapped = false,
              int skew = 0, int pad = 0)
      : DeviceArray(dtype, shape, normal_doubles(count_of(shape), seed), swapped, skew, pad) {}
  DeviceArray(Dtype dtype, std::vector<int64_t> shape, const Values& values, bool swapped = false,
              int skew = 0, int pad = 0)
      : dtype_(dtype), shape_(std::move(shape)), wide_(values) {
    const size_t dims = shape_.size(), size = size_t(dtype_size(dtype));
    strides_.resize(dims);
    int64_t stride = 1;
    for (size_t i = dims; i-- > 0;) {
      size_t d = i;
      if (swapped && i + 2 >= dims) d = i + 1 == dims ? dims - 2 : dims - 1;
      strides_[d] = stride;
      stride *= shape_[d];
      if (i + 1 == dims) stride += stride > 0 ? pad : 0;
    }
    int64_t last = wide_.empty() ? -1 : 0;
    for (size_t d = 0; d < dims; ++d) last += (shape_[d] - 1) * (wide_.empty() ? 0 : strides_[d]);
    memory_ = std::make_unique<Buffer<unsigned char>>(size_t(last + 1 + skew) * size);
    data_ = memory_->data() + size_t(skew) * size;
    for (size_t i = 0; i < wide_.size(); ++i) {
      unsigned char bytes[8];
      encode(dtype, wide_[i], bytes);
      if (is_floating(dtype)) wide_[i] = decode(dtype, bytes);
      copy_to_global(data_ + at(int64_t(i)) * int64_t(size), bytes, size);
    }
  }

  Array array() const { return memory_ ? describe(data_, dtype_, strides_) : Array{}; }
  // float64 and dense; integers as they are.
  Array wide() const {
    if (!memory_ || !is_floating(dtype_)) return array();
    std::vector<int64_t> dense(shape_.size());
    int64_t stride = 1;
    for (size_t d = shape_.size(); d-- > 0; stride *= shape_[d]) dense[d] = stride;
    return describe(const_cast<double*>(wide_.data()), Dtype::kFloat64, dense);
  }
  const Values& values() const { return wide_; }

 private:
  static Values normal_doubles(int64_t count, unsigned seed) {
    const auto drawn = normal_values<float>(size_t(count), seed);
    return Values(drawn.begin(), drawn.end());
  }
  int64_t at(int64_t i) const {
    int64_t offset = 0;
    for (size_t d = shape_.size(); d-- > 0; i /= shape_[d]) offset += i % shape_[d] * strides_[d];
    return offset;
  }
  Array describe(void* data, Dtype dtype, const std::vector<int64_t>& strides) const {
    Array a{.data = data, .dtype = dtype, .ndim = int(shape_.size())};
    std::copy(shape_.begin(), shape_.end(), a.shape.begin());
    std::copy(strides.begin(), strides.end(), a.strides.begin());
    return a;
  }

  Dtype dtype_ = Dtype::kOther;
  std::vector<int64_t> shape_, strides_;
  Values wide_;
  std::unique_ptr<Buffer<unsigned char>> memory_;
  unsigned char* data_ = nullptr;
};

// Some roundings of the storage format.
inline double rounding(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16: return 8e-3;
    case Dtype::kFloat16: return 1e-3;
    case Dtype::kFloat32: return 2e-6;
    default: return 1e-13;
  }
}

// By norm, so that a wrong part of small elements shows, and by element, so that a single one does.
inline void expect_near(const Values& actual, const Values& expected, double near,
                        const std::string& what) {
  double largest = 1e-3, squares = 1e-6, errors = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    largest = std::max(largest, std::fabs(expected[i]));
    squares += expected[i] * expected[i];
    errors += (actual.at(i) - expected[i]) * (actual.at(i) - expected[i]);
  }
  expect_close(actual, expected, near * largest, near, what);
  const double error = std::sqrt(errors / squares);
  expect(error <= near, what + ": relative error of the norm " + std::to_string(error));
}

}  // namespace thrifty::cuda::testing
