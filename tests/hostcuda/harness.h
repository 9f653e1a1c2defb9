// A small test frame for kernels: TEST, Buffer, for_each_schedule, expect_close, expect_fault.
//
// The same test file builds for the host implementation and, with nvcc, for a real device: there a
// Buffer lives in device memory and for_each_schedule runs its body once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/cuda/convert.cuh"
#include "core/cuda/launch.h"

namespace thrifty::cuda::testing {

struct Failure : std::runtime_error {
  using runtime_error::runtime_error;
};

struct Skipped : std::runtime_error {
  using runtime_error::runtime_error;
};
// TMA and wgmma: returns on the host, skips the test on a device other than sm_90.
void needs_sm90();

inline constexpr int kSkippedExit = 77;
const char* missing_device();  // the reason why nothing can run here, or null
void after_test();

struct Registration {
  Registration(const char* name, void (*body)());
};
#define TEST(name)                                                                       \
  static void name();                                                                    \
  static const ::thrifty::cuda::testing::Registration name##_registration(#name, &name); \
  static void name()

// Runs the registered tests whose names contain one of the arguments; --list prints names.
int run_tests(int argc, char** argv);

void expect(bool condition, const std::string& what);
void expect_ok(cudaError_t error);

using Bytes = std::vector<unsigned char>;

// Global memory of a kernel: exactly `size` elements, so that AddressSanitizer sees the first byte
// beyond; poisoned (NaN) unless values are given.
void* allocate_global(size_t bytes);
void free_global(void* memory);
void copy_to_global(void* to, const void* from, size_t bytes);
void copy_from_global(void* to, const void* from, size_t bytes);

template <class T>
class Buffer {
 public:
  explicit Buffer(size_t size) : size_(size), data_(allocate(size)) {}
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    copy_to_global(data_, values.data(), size_ * sizeof(T));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { free_global(data_); }

  T* data() { return data_; }  // for kernels
  size_t size() const { return size_; }
  std::vector<T> values() const {
    std::vector<T> copy(size_);
    copy_from_global(copy.data(), data_, size_ * sizeof(T));
    return copy;
  }
  Bytes bytes() const {
    Bytes copy(size_ * sizeof(T));
    copy_from_global(copy.data(), data_, copy.size());
    return copy;
  }

 private:
  static T* allocate(size_t size) { return static_cast<T*>(allocate_global(size * sizeof(T))); }
  size_t size_;
  T* data_;
};

// Calls `body`, which launches kernels, checks their results and returns the outputs' bytes, under
// every schedule and two poisons; the outputs must agree bit for bit.
void for_each_schedule(const std::function<Bytes()>& body);
// Under six of the schedules, for many variants of one kernel.
void for_few_schedules(const std::function<Bytes()>& body);
// The same without comparing outputs: for sums of floats by atomics, whose order is free.
void for_each_schedule_inexact(const std::function<void()>& body);

// `body` must end in a Fault whose message contains `text`. Host only.
void expect_fault(const std::string& text, const std::function<void()>& body);

// Elementwise |actual - expected| <= absolute + relative |expected|; NaN is never close.
void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double absolute, double relative, const std::string& what);

inline double as_double(double value) { return value; }
inline double as_double(float value) { return value; }
inline double as_double(bf16 value) { return __bfloat162float(value); }
inline double as_double(fp16 value) { return __half2float(value); }
inline double as_double(int value) { return value; }
inline double as_double(uint32_t value) { return value; }

template <class T>
std::vector<double> doubles(const std::vector<T>& values) {
  std::vector<double> result;
  for (const T& value : values) result.push_back(as_double(value));
  return result;
}
template <class T>
void expect_close(const Buffer<T>& actual, const std::vector<double>& expected, double absolute,
                  double relative, const std::string& what) {
  expect_close(doubles(actual.values()), expected, absolute, relative, what);
}

// Standard normal values rounded to T.
template <class T>
std::vector<T> normal_values(size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(size);
  for (T& value : values) {
    const float drawn = normal(generator);
    if constexpr (std::is_same_v<T, bf16>) {
      value = __float2bfloat16(drawn);
    } else if constexpr (std::is_same_v<T, fp16>) {
      value = __float2half(drawn);
    } else {
      value = T(drawn);
    }
  }
  return values;
}

}  // namespace thrifty::cuda::testing
