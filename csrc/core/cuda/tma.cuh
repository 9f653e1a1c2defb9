// TMA: one thread has the copy engine bring a tile into shared memory (sm_90).
//
// The bytes of the whole box, zeros outside the tensor included, count towards the mbarrier;
// whoever reads them waits on it. Element (i, j) of the box lands at swizzled(swizzle, i *
// row_bytes + j * sizeof(T)) of the destination, which starts on 128 bytes and, with a swizzle, on
// 8 spans of it.
#pragma once

#include "core/cuda/mbarrier.cuh"
#include "core/cuda/tensor_map.h"

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/tma.h"
#else
#include <cute/arch/copy_sm90_tma.hpp>

namespace thrifty::cuda {

inline constexpr uint64_t kEvictNormal =
    0x1000000000000000;  // L2 policy word that CuTe always asks for

// The box whose first element is (x, y) resp. (x, y, z) of the tensor, in elements.
THRIFTY_DEVICE void tma_load_2d(void* shared_tile, const TensorMap* map, Mbarrier* barrier, int x,
                                int y) {
  cute::SM90_TMA_LOAD_2D::copy(map, barrier, kEvictNormal, shared_tile, x, y);
}
THRIFTY_DEVICE void tma_load_3d(void* shared_tile, const TensorMap* map, Mbarrier* barrier, int x,
                                int y, int z) {
  cute::SM90_TMA_LOAD_3D::copy(map, barrier, kEvictNormal, shared_tile, x, y, z);
}
// Brings the map itself into the cache; saves the first load some hundred cycles.
THRIFTY_DEVICE void tma_prefetch_map(const TensorMap* map) {
  cute::prefetch_tma_descriptor(reinterpret_cast<const cute::TmaDescriptor*>(map));
}

}  // namespace thrifty::cuda
#endif
