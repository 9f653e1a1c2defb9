// Conversions between a storage format and sums (float, or double for float64).
#pragma once

#include "core/array.h"
#include "moe/tiles.h"

namespace thrifty::moe {

inline const TileKernels& tile_kernels(Dtype dtype) { return moe_tiles().storage[int(dtype)]; }

inline Dtype sum_dtype(Dtype dtype) {
  return dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32;
}

// to[n] = from[first, first + n), the array's elements taken in memory order.
inline void to_wide(int64_t n, const Array& from, int64_t first, void* to) {
  const auto* data = static_cast<const std::byte*>(from.data) + first * dtype_size(from.dtype);
  tile_kernels(from.dtype).widen(n, data, to);
}

inline void from_wide(int64_t n, const void* from, Dtype dtype, void* to, int64_t first) {
  tile_kernels(dtype).narrow(n, from, static_cast<std::byte*>(to) + first * dtype_size(dtype));
}

}  // namespace thrifty::moe
