// TensorMap: what the copy engine knows of a tensor in global memory, made on the host (sm_90).
//
// make_tensor_map describes base[..., y, x] with x innermost and contiguous. `box` is the tile that
// one tma_load brings; what lies outside the tensor arrives as zeros. Pass the map to the kernel by
// value as `const __grid_constant__ TensorMap map` and its address to tma_load.
#pragma once

#include "core/cuda/platform.cuh"

namespace thrifty::cuda {

// How the 16-byte chunks of a tile lie in shared memory: the chunk number within a row of 32, 64 or
// 128 bytes is exclusive-ored with the number of the 128-byte line, so that the 8 rows which
// ldmatrix or wgmma read together fall into different banks.
enum class Swizzle { none, bytes32, bytes64, bytes128 };

// Bytes of a row of a swizzled tile; 16, one chunk, where there is no swizzle.
THRIFTY_HOST_DEVICE constexpr int swizzle_span(Swizzle swizzle) {
  return swizzle == Swizzle::none ? 16 : 16 << int(swizzle);
}
// Shared memory offset of what lies at `offset` of the unswizzled tile; the tile starts on a
// multiple of 8 spans.
THRIFTY_HOST_DEVICE constexpr uint32_t swizzled(Swizzle swizzle, uint32_t offset) {
  const uint32_t chunks = uint32_t(swizzle_span(swizzle)) / 16 - 1;
  return offset ^ (offset >> 7 & chunks) << 4;
}

// What the hardware asks of a tensor map; sizes and box in elements, strides in bytes, x first.
template <int kRank>
bool tensor_map_is_valid(const void* base, int element_bytes, const uint64_t (&sizes)[kRank],
                         const uint64_t (&stride_bytes)[kRank], const uint32_t (&box)[kRank],
                         Swizzle swizzle) {
  static_assert(kRank == 2 || kRank == 3, "tensor map: two or three dimensions");
  bool valid = reinterpret_cast<uintptr_t>(base) % 16 == 0;
  for (int i = 0; i < kRank; ++i) {
    valid = valid && sizes[i] > 0 && sizes[i] <= uint64_t(1) << 32 && box[i] > 0 && box[i] <= 256;
    if (i > 0) valid = valid && stride_bytes[i] % 16 == 0 && stride_bytes[i] < uint64_t(1) << 40;
  }
  const uint32_t row = box[0] * uint32_t(element_bytes);
  return valid && row % 16 == 0 &&
         (swizzle == Swizzle::none || row == uint32_t(swizzle_span(swizzle)));
}

}  // namespace thrifty::cuda

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/tensor_map.h"
#else
#include <cuda.h>

#include <type_traits>

#include "core/cuda/convert.cuh"

namespace thrifty::cuda {

using TensorMap = CUtensorMap;

// The driver's encoder, found through the runtime so that nothing links libcuda.
inline cudaError_t tensor_map_encoder(decltype(&cuTensorMapEncodeTiled)* encoder) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found{};
#if CUDART_VERSION >= 12050
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                             12000, cudaEnableDefault, &found);
#else
  const cudaError_t error =
      cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  *encoder = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry);
  return cudaSuccess;
}

// sizes and box in elements, strides in elements with stride[0] == 1, the innermost dimension
// first.
template <class T, int kRank>
cudaError_t make_tensor_map(TensorMap* map, const T* base, const uint64_t (&sizes)[kRank],
                            const uint64_t (&strides)[kRank], const uint32_t (&box)[kRank],
                            Swizzle swizzle) {
  uint64_t stride_bytes[kRank];
  for (int i = 0; i < kRank; ++i) stride_bytes[i] = strides[i] * sizeof(T);
  if (strides[0] != 1 ||
      !tensor_map_is_valid(base, int(sizeof(T)), sizes, stride_bytes, box, swizzle))
    return cudaErrorInvalidValue;
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16> || std::is_same_v<T, float>,
                "tensor map: bf16, fp16 or float");
  constexpr CUtensorMapDataType type = std::is_same_v<T, bf16>   ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                       : std::is_same_v<T, fp16> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                                                 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  constexpr CUtensorMapSwizzle kSwizzles[] = {CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_32B,
                                              CU_TENSOR_MAP_SWIZZLE_64B,
                                              CU_TENSOR_MAP_SWIZZLE_128B};
  decltype(&cuTensorMapEncodeTiled) encode = nullptr;
  if (const cudaError_t error = tensor_map_encoder(&encode); error != cudaSuccess) return error;
  const uint32_t every[] = {1, 1, 1};  // element strides
  const CUresult result =
      encode(map, type, kRank, const_cast<T*>(base), sizes, stride_bytes + 1, box, every,
             CU_TENSOR_MAP_INTERLEAVE_NONE, kSwizzles[int(swizzle)],
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace thrifty::cuda
#endif
