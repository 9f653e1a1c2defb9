// The product of 16-bit rows with directions.
#pragma once

#include "attention/nearest.cuh"
#include "core/half_product.cuh"

namespace thrifty::attention::cuda {

template <class T>
struct HalfNearest : HalfLarge<T, true, true> {
  using Sums = HalfSums<2, 2, 4>;
  static constexpr int kColumnGroups = 8;  // threads that share a row: 4 lanes of 2 warps
  static THRIFTY_DEVICE int column_group() { return Sums::warp_n() * 4 + lane_index() % 4; }
  static_assert(std::is_same_v<Sums, typename HalfLarge<T, true, true>::Sums>);
};

}  // namespace thrifty::attention::cuda
