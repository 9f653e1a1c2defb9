// Element types that arrays may have, and the one switch over them.
#pragma once

#include <cstdint>

namespace thrifty {

enum class Dtype : int { kFloat32, kBFloat16, kFloat16, kFloat64, kInt64, kInt32, kUInt8, kOther };

constexpr int64_t dtype_size(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
    case Dtype::kInt32: return 4;
    case Dtype::kBFloat16:
    case Dtype::kFloat16: return 2;
    case Dtype::kFloat64:
    case Dtype::kInt64: return 8;
    default: return 1;
  }
}

constexpr bool is_floating(Dtype dtype) { return dtype <= Dtype::kFloat64; }
constexpr bool is_half(Dtype dtype) {
  return dtype == Dtype::kBFloat16 || dtype == Dtype::kFloat16;
}

constexpr const char* dtype_name(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32: return "float32";
    case Dtype::kBFloat16: return "bfloat16";
    case Dtype::kFloat16: return "float16";
    case Dtype::kFloat64: return "float64";
    case Dtype::kInt64: return "int64";
    case Dtype::kInt32: return "int32";
    case Dtype::kUInt8: return "uint8";
    default: return "another dtype";
  }
}

// Storage formats of 16 bits. Arithmetic is always float32: kernels convert when they load and
// store.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

}  // namespace thrifty
