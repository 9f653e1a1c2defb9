// 16-bit values as float.
#pragma once

#include <bit>
#include <cstdint>

namespace thrifty::cuda::host {

inline float bf16_value(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
float fp16_value(uint16_t bits);  // from a table

inline float half_value(bool is_fp16, uint16_t bits) {
  return is_fp16 ? fp16_value(bits) : bf16_value(bits);
}

}  // namespace thrifty::cuda::host
