// Cache-line aligned scratch memory, uninitialised.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace thrifty {

// static: ISA files use them too, and must not emit inline functions that others could share
// (simd.h).
static constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
static constexpr int64_t ceil_div(int64_t value, int64_t divisor) {
  return (value + divisor - 1) / divisor;
}

class Scratch {
 public:
  Scratch() = default;
  explicit Scratch(int64_t bytes)
      : data_(static_cast<std::byte*>(::operator new(size_t(bytes), kAlignment))) {}

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<std::byte, Free> data_;
};

}  // namespace thrifty
