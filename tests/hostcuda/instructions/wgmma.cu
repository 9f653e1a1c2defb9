// wgmma against plain loops: shapes, types, major directions, swizzles, A from registers, batches.
#include "core/cuda/wgmma.cuh"

#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/tma.cuh"
#include "hostcuda/harness.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

// The layout of a tile of `mn` x 64 in shared memory: byte offset of element (row, k).
template <Swizzle kSwizzle, Major kMajor>
__device__ __host__ uint32_t tile_offset(int row, int k, int panel_bytes) {
  const int span = swizzle_span(kSwizzle), wide = span / 2;
  const int along = kMajor == Major::k ? k : row, across = kMajor == Major::k ? row : k;
  const int offset = along / wide * panel_bytes + across * span + along % wide * 2;
  return swizzled(kSwizzle, uint32_t(offset));
}

constexpr int kDepth = 64;

template <Major kMajor>
__device__ __host__ constexpr int panel_bytes(int rows, Swizzle swizzle) {
  return (kMajor == Major::k ? rows : kDepth) * swizzle_span(swizzle);
}

// d[t][i] of thread t: C = A (64 x 64) B (64 x kN) + 1, a in [m][k], b in [n][k] order.
template <class T, int kN, Swizzle kSwizzle, Major kMajorA, Major kMajorB, bool kRegisters>
__global__ void __launch_bounds__(128)
    product(const T* __restrict__ a, const T* __restrict__ b, float* __restrict__ out) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, smem);
  constexpr int kPanelA = panel_bytes<kMajorA>(64, kSwizzle);
  constexpr int kPanelB = panel_bytes<kMajorB>(kN, kSwizzle);
  unsigned char* const tile_a = smem;
  unsigned char* const tile_b = smem + 64 * kDepth * 2;
  const int t = int(threadIdx.x), warp = t / 32, lane = t % 32;
  for (int i = t; i < 64 * kDepth; i += 128)
    *reinterpret_cast<T*>(tile_a +
                          tile_offset<kSwizzle, kMajorA>(i / kDepth, i % kDepth, kPanelA)) = a[i];
  for (int i = t; i < kN * kDepth; i += 128)
    *reinterpret_cast<T*>(tile_b +
                          tile_offset<kSwizzle, kMajorB>(i / kDepth, i % kDepth, kPanelB)) = b[i];
  fence_async_shared();
  syncthreads();
  float d[kN / 2];
  for (int i = 0; i < kN / 2; ++i) d[i] = 1.0f;
#pragma unroll
  for (int half = 0; half < 2; ++half) {  // two batches in flight
    uint32_t fragment[2][4];
    if constexpr (kRegisters) {
      for (int step = 0; step < 2; ++step)
        for (int i = 0; i < 4; ++i) {
          const int row = warp * 16 + lane / 4 + i % 2 * 8;
          const T* pair = a + row * kDepth + half * 32 + step * 16 + lane % 4 * 2 + i / 2 * 8;
          fragment[step][i] = pack2(pair[0], pair[1]);
        }
    }
    wgmma_fence(d);
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const int k = half * 32 + step * 16;
      const uint64_t operand_b = wgmma_operand<kSwizzle, kMajorB>(tile_b, kPanelB, k);
      if constexpr (kRegisters)
        wgmma<T, kN, kMajorB>(d, fragment[step], operand_b);
      else
        wgmma<T, kN, kMajorA, kMajorB>(d, wgmma_operand<kSwizzle, kMajorA>(tile_a, kPanelA, k),
                                       operand_b);
    }
    wgmma_commit();
  }
  wgmma_wait<0>(d);
  for (int i = 0; i < kN / 2; ++i) {
    const int row = warp * 16 + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    out[row * kN + column] = d[i];
  }
}

template <class T, int kN, Swizzle kSwizzle, Major kMajorA = Major::k, Major kMajorB = Major::k,
          bool kRegisters = false>
void check_product() {
  needs_sm90();
  const auto a = normal_values<T>(64 * kDepth, 1), b = normal_values<T>(kN * kDepth, 2);
  std::vector<double> expected;
  for (int m = 0; m < 64; ++m)
    for (int n = 0; n < kN; ++n) {
      double sum = 1;
      for (int k = 0; k < kDepth; ++k)
        sum += as_double(a[size_t(m * kDepth + k)]) * as_double(b[size_t(n * kDepth + k)]);
      expected.push_back(sum);
    }
  Buffer<T> device_a(a), device_b(b);
  for_few_schedules([&] {
    Buffer<float> out(64 * kN);
    expect_ok(launch(product<T, kN, kSwizzle, kMajorA, kMajorB, kRegisters>, 1, 128,
                     (64 + kN) * kDepth * 2, nullptr, device_a.data(), device_b.data(),
                     out.data()));
    expect_close(out, expected, 2e-4, 1e-5, "product");
    return out.bytes();
  });
}

template <class T, Swizzle kSwizzle>
void check_majors() {
  check_product<T, 64, kSwizzle>();
  check_product<T, 64, kSwizzle, Major::mn, Major::k>();
  check_product<T, 64, kSwizzle, Major::k, Major::mn>();
  check_product<T, 64, kSwizzle, Major::mn, Major::mn>();
  check_product<T, 64, kSwizzle, Major::k, Major::k, true>();
  check_product<T, 64, kSwizzle, Major::k, Major::mn, true>();
}

}  // namespace

TEST(wgmma_swizzle_none) { check_majors<bf16, Swizzle::none>(); }
TEST(wgmma_swizzle_32) { check_majors<bf16, Swizzle::bytes32>(); }
TEST(wgmma_swizzle_64) { check_majors<bf16, Swizzle::bytes64>(); }
TEST(wgmma_swizzle_128) { check_majors<bf16, Swizzle::bytes128>(); }
TEST(wgmma_fp16) {
  check_product<fp16, 64, Swizzle::bytes128>();
  check_product<fp16, 64, Swizzle::bytes64, Major::mn, Major::mn>();
  check_product<fp16, 64, Swizzle::bytes128, Major::k, Major::k, true>();
}
TEST(wgmma_widths) {
  check_product<bf16, 8, Swizzle::bytes128>();
  check_product<bf16, 16, Swizzle::bytes128>();
  check_product<bf16, 32, Swizzle::bytes128>();
  check_product<bf16, 96, Swizzle::bytes128>();
  check_product<bf16, 128, Swizzle::bytes128>();
  check_product<bf16, 192, Swizzle::bytes128>();
  check_product<bf16, 256, Swizzle::bytes128>();
  check_product<bf16, 128, Swizzle::bytes128, Major::k, Major::mn>();
  check_product<bf16, 256, Swizzle::bytes128, Major::k, Major::mn, true>();
}
