// Host form of core/cuda/mma.cuh.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {
void mma_m16n8k16(bool is_fp16, float* d, const uint32_t* a, uint32_t b0, uint32_t b1,
                  const Site& site);
}  // namespace host

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  host::Site site = host::Site::current()) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>, "mma: bf16 or fp16");
  host::mma_m16n8k16(std::is_same_v<T, fp16>, d, a, b0, b1, site);
}

}  // namespace thrifty::cuda
