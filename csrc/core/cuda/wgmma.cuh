// wgmma: D (64 x kN, float) += A (64 x 16) B (16 x kN) by the four warps of a warpgroup (sm_90a).
//
// A and B lie in shared memory, A alternatively in registers. d[4j + i] of lane l in warp w is
//   D[16 w + l / 4 + 8 (i / 2)][8 j + 2 (l % 4) + i % 2],
// and A in registers has the fragments of mma_m16n8k16, warp w holding rows 16 w to 16 w + 15.
// The products run on their own: wgmma_fence(d) begins a batch, wgmma_commit ends it, and neither d
// nor the shared memory may be touched until a wgmma_wait covers the batch. All 128 threads call.
//
// A tile is made of panels as tma_load brings them: rows of swizzle_span bytes, one after another.
// Major::k: row = m (or n), the span runs along k.  Major::mn: row = k, the span runs along m (or
// n).
#pragma once

#include <type_traits>
#include <utility>

#include "core/cuda/convert.cuh"
#include "core/cuda/tensor_map.h"

namespace thrifty::cuda {

enum class Major { k, mn };

// The matrix descriptor (PTX ISA, "Matrix Descriptor Format") of columns k to k + 15 of a tile
// whose panels are panel_bytes apart. address: of the tile in shared memory.
THRIFTY_HOST_DEVICE constexpr uint64_t wgmma_descriptor(uint32_t address, Swizzle swizzle,
                                                        Major major, int panel_bytes, int k) {
  const uint32_t span = uint32_t(swizzle_span(swizzle)), panel = uint32_t(panel_bytes);
  uint32_t leading, stride;
  if (major == Major::mn) {
    address += uint32_t(k) * span;
    leading = swizzle == Swizzle::none ? 8 * span : panel;
    stride = swizzle == Swizzle::none ? panel : 8 * span;
  } else {
    const uint32_t columns = span / 2;  // of a panel
    address += uint32_t(k) / columns * panel + uint32_t(k) % columns * 2;
    leading = swizzle == Swizzle::none ? panel : 16;
    stride = 8 * span;
  }
  constexpr uint64_t kLayout[] = {0, 3, 2, 1};
  return uint64_t(address >> 4 & 0x3fff) | uint64_t(leading >> 4 & 0x3fff) << 16 |
         uint64_t(stride >> 4 & 0x3fff) << 32 | kLayout[int(swizzle)] << 62;
}

}  // namespace thrifty::cuda

#if defined(THRIFTY_HOST_CUDA)
#include "hostcuda/wgmma.h"
#else
#include <cutlass/arch/reg_reconfig.h>
#include <cute/arch/mma_sm90_gmma.hpp>
#include <cute/arch/util.hpp>

namespace thrifty::cuda {

template <Swizzle kSwizzle, Major kMajor = Major::k>
THRIFTY_DEVICE uint64_t wgmma_operand(const void* tile, int panel_bytes, int k = 0) {
  const uint32_t address = cute::cast_smem_ptr_to_uint(tile);
  return wgmma_descriptor(address, kSwizzle, kMajor, panel_bytes, k);
}

namespace detail {

template <class T, int kN, cute::SM90::GMMA::Major kA, cute::SM90::GMMA::Major kB>
struct WgmmaAtom;
#define THRIFTY_WGMMA_ATOM(n)                                                   \
  template <cute::SM90::GMMA::Major kA, cute::SM90::GMMA::Major kB>             \
  struct WgmmaAtom<bf16, n, kA, kB> {                                           \
    using Shared = cute::SM90::GMMA::MMA_64x##n##x16_F32BF16BF16_SS<kA, kB>;    \
    template <class Enable = void>                                              \
    using Registers = cute::SM90::GMMA::MMA_64x##n##x16_F32BF16BF16_RS<kA, kB>; \
  };                                                                            \
  template <cute::SM90::GMMA::Major kA, cute::SM90::GMMA::Major kB>             \
  struct WgmmaAtom<fp16, n, kA, kB> {                                           \
    using Shared = cute::SM90::GMMA::MMA_64x##n##x16_F32F16F16_SS<kA, kB>;      \
    template <class Enable = void>                                              \
    using Registers = cute::SM90::GMMA::MMA_64x##n##x16_F32F16F16_RS<kA, kB>;   \
  };
THRIFTY_WGMMA_ATOM(8)
THRIFTY_WGMMA_ATOM(16)
THRIFTY_WGMMA_ATOM(32)
THRIFTY_WGMMA_ATOM(64)
THRIFTY_WGMMA_ATOM(96)
THRIFTY_WGMMA_ATOM(128)
THRIFTY_WGMMA_ATOM(192)
THRIFTY_WGMMA_ATOM(256)
#undef THRIFTY_WGMMA_ATOM

constexpr cute::SM90::GMMA::Major gmma_major(Major major) {
  return major == Major::k ? cute::SM90::GMMA::Major::K : cute::SM90::GMMA::Major::MN;
}

}  // namespace detail

// kN: 8, 16, 32, 64, 96, 128, 192 or 256. Without `accumulate` d's old values are ignored.
template <class T, int kN, Major kMajorA = Major::k, Major kMajorB = Major::k>
THRIFTY_DEVICE void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate = true) {
  using Atom = typename detail::WgmmaAtom<T, kN, detail::gmma_major(kMajorA),
                                          detail::gmma_major(kMajorB)>::Shared;
  [&]<size_t... i>(std::index_sequence<i...>) {
    Atom::fma(a, b, d[i]..., cute::SM90::GMMA::ScaleOut(accumulate));
  }(std::make_index_sequence<kN / 2>());
}
template <class T, int kN, Major kMajorB = Major::k>
THRIFTY_DEVICE void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                          bool accumulate = true) {
  using Atom = typename detail::WgmmaAtom<T, kN, cute::SM90::GMMA::Major::K,
                                          detail::gmma_major(kMajorB)>::template Registers<>;
  [&]<size_t... i>(std::index_sequence<i...>) {
    Atom::fma(a[0], a[1], a[2], a[3], b, d[i]..., cute::SM90::GMMA::ScaleOut(accumulate));
  }(std::make_index_sequence<kN / 2>());
}

// Begins every batch, after its A fragments have been written; names the accumulators so that the
// compiler does not move their uses across.
template <int... kSizes>
THRIFTY_DEVICE void wgmma_fence(float (&... d)[kSizes]) {
  (
      [&] {
#pragma unroll
        for (int i = 0; i < kSizes; ++i) cute::warpgroup_fence_operand(d[i]);
      }(),
      ...);
  cute::warpgroup_arrive();
}
THRIFTY_DEVICE void wgmma_commit() { cute::warpgroup_commit_batch(); }
// Until at most kPending of the newest batches run; then d may be read.
template <int kPending, int... kSizes>
THRIFTY_DEVICE void wgmma_wait(float (&... d)[kSizes]) {
  cute::warpgroup_wait<kPending>();
  (
      [&] {
#pragma unroll
        for (int i = 0; i < kSizes; ++i) cute::warpgroup_fence_operand(d[i]);
      }(),
      ...);
}

// Moves registers between warpgroups of a block; converged, kRegisters a multiple of 8 in 24..240.
template <int kRegisters>
THRIFTY_DEVICE void setmaxnreg_decrease() {
  cutlass::arch::warpgroup_reg_dealloc<kRegisters>();
}
template <int kRegisters>
THRIFTY_DEVICE void setmaxnreg_increase() {
  cutlass::arch::warpgroup_reg_alloc<kRegisters>();
}

}  // namespace thrifty::cuda
#endif
