// Host form of core/cuda/tensor_map.h: the description itself.
#pragma once

#include "hostcuda/platform.h"

namespace thrifty::cuda {

struct TensorMap {
  const unsigned char* base = nullptr;
  int rank = 0, element_bytes = 0;
  uint64_t sizes[3] = {1, 1, 1}, stride_bytes[3] = {0, 0, 0};
  uint32_t box[3] = {1, 1, 1};
  Swizzle swizzle = Swizzle::none;

  uint32_t row_bytes() const { return box[0] * uint32_t(element_bytes); }
  uint32_t box_bytes() const { return row_bytes() * box[1] * box[2]; }
};

template <class T, int kRank>
cudaError_t make_tensor_map(TensorMap* map, const T* base, const uint64_t (&sizes)[kRank],
                            const uint64_t (&strides)[kRank], const uint32_t (&box)[kRank],
                            Swizzle swizzle) {
  uint64_t stride_bytes[kRank];
  for (int i = 0; i < kRank; ++i) stride_bytes[i] = strides[i] * sizeof(T);
  if (strides[0] != 1 ||
      !tensor_map_is_valid(base, int(sizeof(T)), sizes, stride_bytes, box, swizzle))
    return cudaErrorInvalidValue;
  *map = TensorMap();
  map->base = reinterpret_cast<const unsigned char*>(base);
  map->rank = kRank;
  map->element_bytes = int(sizeof(T));
  map->swizzle = swizzle;
  for (int i = 0; i < kRank; ++i) {
    map->sizes[i] = sizes[i];
    map->stride_bytes[i] = stride_bytes[i];
    map->box[i] = box[i];
  }
  return cudaSuccess;
}

}  // namespace thrifty::cuda
