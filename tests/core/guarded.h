// Memory that tells when something was written beside it: guard bytes on both sides, or, under
// AddressSanitizer, the sanitizer's own.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "numbers.h"

namespace thrifty::test {

// `count` elements that start as NaN (in every format all bits set), aligned for one element only.
class Guarded {
 public:
  Guarded() : Guarded(Dtype::kFloat32, 0) {}
  Guarded(Dtype dtype, int64_t count)
      : dtype_(dtype), count_(count), bytes_(size_t(bytes() + 2 * kGuard), kGuardByte) {
    fill_nan();
  }
  template <class Value>
  Guarded(Dtype dtype, int64_t count, const Value& value) : Guarded(dtype, count) {
    for (int64_t i = 0; i < count; ++i) set(i, value());
  }

  Dtype dtype() const { return dtype_; }
  int64_t size() const { return count_; }
  int64_t bytes() const { return count_ * dtype_size(dtype_); }
  void* data() { return bytes_.data() + kGuard; }
  const void* data() const { return bytes_.data() + kGuard; }
  void* at(int64_t i) { return bytes_.data() + kGuard + i * dtype_size(dtype_); }
  double operator[](int64_t i) const { return get(dtype_, data(), i); }
  void set(int64_t i, double value) { put(dtype_, data(), i, value); }
  void fill_nan() {
    if (count_ > 0) std::memset(data(), 0xff, size_t(bytes()));
  }

  bool intact() const {
    const auto is_guard = [](char byte) { return byte == kGuardByte; };
    return std::all_of(bytes_.begin(), bytes_.begin() + kGuard, is_guard) &&
           std::all_of(bytes_.end() - kGuard, bytes_.end(), is_guard);
  }
  bool same_bytes(const Guarded& other) const { return bytes_ == other.bytes_; }

 private:
#ifdef __SANITIZE_ADDRESS__
  static constexpr int64_t kGuard = 0;
#else
  static constexpr int64_t kGuard = 72;  // more than a vector, and no multiple of one
#endif
  static constexpr char kGuardByte = 0x5a;

  Dtype dtype_ = Dtype::kFloat32;
  int64_t count_ = 0;
  std::vector<char> bytes_;
};

}  // namespace thrifty::test
