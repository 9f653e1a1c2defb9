// Planted bugs in a warp-specialised product with mbarriers, TMA and wgmma; Bug::none is the twin.
//
// C (m x n) = A (m x k) B^T (n x k), tiles of 64 x 64 x 64. Warp 4 loads into a ring of two stages,
// warps 0 to 3 multiply; full[s] says that stage s has come, empty[s] that it may be overwritten.
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/tma.cuh"
#include "core/cuda/wgmma.cuh"
#include "hostcuda/planted.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

enum class Bug {
  none,
  missing_full_wait,
  full_wait_by_one_warp,
  missing_empty_wait,
  early_release,
  release_by_one_warp,
  too_few_bytes,
  too_many_bytes,
  wrong_parity,
  no_init_barrier,
  missing_wgmma_wait,
  missing_wgmma_fence,
  one_warp_skips,
  wrong_swizzle,
  tile_off_period,
  unfenced_epilogue,
  arrivals,
};

constexpr int kTile = 64, kStages = 2, kTileBytes = kTile * kTile * 2;
constexpr Swizzle kSwizzle = Swizzle::bytes128;

struct Ring {
  Mbarrier full[kStages], empty[kStages];
};

__device__ void produce(Bug bug, unsigned char* smem, Ring& ring, const TensorMap* a,
                        const TensorMap* b, int steps) {
  if (lane_index() != 0) return;
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages, round = step / kStages;
    if (bug != Bug::missing_empty_wait) mbarrier_wait(&ring.empty[stage], (round + 1) % 2);
    const int slack = bug == Bug::too_few_bytes ? -64 : bug == Bug::too_many_bytes ? 64 : 0;
    mbarrier_arrive_expect(&ring.full[stage], 2 * kTileBytes + slack);
    unsigned char* const tile =
        smem + stage * 2 * kTileBytes + (bug == Bug::tile_off_period ? 128 : 0);
    tma_load_2d(tile, a, &ring.full[stage], step * kTile, int(blockIdx.y) * kTile);
    tma_load_2d(tile + kTileBytes, b, &ring.full[stage], step * kTile, int(blockIdx.x) * kTile);
  }
}

__device__ void consume(Bug bug, unsigned char* smem, Ring& ring, float (&d)[kTile / 2],
                        int steps) {
  const int warp = warp_index();
  for (int step = 0; step < steps; ++step) {
    const int stage = step % kStages, parity = step / kStages % 2;
    const unsigned char* const tile_a = smem + stage * 2 * kTileBytes;
    const unsigned char* const tile_b = tile_a + kTileBytes;
    if (bug == Bug::wrong_parity)
      mbarrier_wait(&ring.full[stage], 1 - parity);
    else if (bug == Bug::full_wait_by_one_warp ? warp == 0 : bug != Bug::missing_full_wait)
      mbarrier_wait(&ring.full[stage], parity);
    if (bug == Bug::early_release && lane_index() == 0) mbarrier_arrive(&ring.empty[stage]);
    if (bug != Bug::missing_wgmma_fence) wgmma_fence(d);
    for (int k = 0; k < kTile; k += 16) {
      if (bug == Bug::one_warp_skips && warp == 3 && k == 48) continue;
      wgmma<bf16, kTile>(d, wgmma_operand<kSwizzle>(tile_a, kTileBytes, k),
                         wgmma_operand<kSwizzle>(tile_b, kTileBytes, k), step > 0 || k > 0);
    }
    wgmma_commit();
    if (bug != Bug::missing_wgmma_wait) wgmma_wait<0>(d);
    if (bug == Bug::release_by_one_warp) {
      if (threadIdx.x == 0)
        for (int i = 0; i < 4; ++i) mbarrier_arrive(&ring.empty[stage]);
    } else if (bug != Bug::early_release && lane_index() == 0) {
      mbarrier_arrive(&ring.empty[stage]);
      if (bug == Bug::arrivals) mbarrier_arrive(&ring.empty[stage]);
    }
  }
}

__global__ void __launch_bounds__(160)
    product(Bug bug, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b,
            float* __restrict__ c, int m, int n, int k) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, smem);
  THRIFTY_SHARED(Ring, ring, [1]);
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < kStages; ++stage) {
      mbarrier_init(&ring->full[stage], 1);
      mbarrier_init(&ring->empty[stage], 4);
    }
    fence_mbarrier_init();
  }
  if (bug != Bug::no_init_barrier) syncthreads();
  const int steps = (k + kTile - 1) / kTile, warp = warp_index();
  if (warp == 4) {
    produce(bug, smem, *ring, &a, &b, steps);
    return;
  }
  float d[kTile / 2];
  consume(bug, smem, *ring, d, steps);
  for (int i = 0; i < kTile / 2; ++i) {
    const int lane = lane_index();
    const int row = int(blockIdx.y) * kTile + warp * 16 + lane / 4 + i / 2 % 2 * 8;
    const int column = int(blockIdx.x) * kTile + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (row < m && column < n) c[size_t(row) * n + column] = d[i];
  }
}

void check_product(Bug bug) {
  constexpr int m = 72, n = 64, k = 328;  // k and m not multiples of the tile
  const auto a = normal_values<bf16>(m * k, 1), b = normal_values<bf16>(n * k, 2);
  std::vector<double> expected;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l)
        sum += as_double(a[size_t(i * k + l)]) * as_double(b[size_t(j * k + l)]);
      expected.push_back(sum);
    }
  Buffer<bf16> device_a(a), device_b(b);
  TensorMap map_a, map_b;
  expect_ok(make_tensor_map(&map_a, device_a.data(), {k, m}, {1, k}, {kTile, kTile}, kSwizzle));
  expect_ok(make_tensor_map(&map_b, device_b.data(), {k, n}, {1, k}, {kTile, kTile}, kSwizzle));
  for_each_schedule([&] {
    Buffer<float> c(m * n);
    expect_ok(launch(product, dim3(1, 2), 160, kStages * 2 * kTileBytes + 1024, nullptr, bug, map_a,
                     map_b, c.data(), m, n, k));
    expect_close(c, expected, 5e-4, 1e-5, "c");
    return c.bytes();
  });
}

// The warpgroup writes a tile itself, and multiplies it.
__global__ void __launch_bounds__(128)
    square(Bug bug, const bf16* __restrict__ a, float* __restrict__ c) {
  THRIFTY_DYNAMIC_SHARED(bf16, tile);  // [64][16], rows of 32 bytes
  for (int i = int(threadIdx.x); i < 64 * 16; i += 128)
    tile[swizzled(bug == Bug::wrong_swizzle ? Swizzle::none : Swizzle::bytes32, uint32_t(i) * 2) /
         2] = a[i];
  if (bug != Bug::unfenced_epilogue) fence_async_shared();
  syncthreads();
  float d[32];
  const uint64_t operand = wgmma_operand<Swizzle::bytes32>(tile, 64 * 32);
  wgmma_fence(d);
  wgmma<bf16, 64>(d, operand, operand, false);
  wgmma_commit();
  wgmma_wait<0>(d);
  for (int i = 0; i < 32; ++i) c[i * 128 + int(threadIdx.x)] = d[i];
}

void check_square(Bug bug) {
  const auto a = normal_values<bf16>(64 * 16, 3);
  std::vector<double> expected(64 * 64);
  for (int t = 0; t < 128; ++t)
    for (int i = 0; i < 32; ++i) {
      const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8,
                column = i / 4 * 8 + t % 4 * 2 + i % 2;
      double sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += as_double(a[size_t(row * 16 + k)]) * as_double(a[size_t(column * 16 + k)]);
      expected[size_t(i * 128 + t)] = sum;
    }
  Buffer<bf16> device_a(a);
  for_each_schedule([&] {
    Buffer<float> c(64 * 64);
    expect_ok(
        launch(square, 1, 128, 64 * 16 * sizeof(bf16), nullptr, bug, device_a.data(), c.data()));
    expect_close(c, expected, 1e-4, 1e-5, "c");
    return c.bytes();
  });
}

}  // namespace

TEST(ring_twin) { check_product(Bug::none); }
TEST(square_twin) { check_square(Bug::none); }

TEST(missing_full_wait) {
  expect_caught({kWrong, "which no thread has written"},
                [] { check_product(Bug::missing_full_wait); });
}
TEST(full_wait_by_one_warp) {
  expect_caught({kWrong, "wgmma of warp"}, [] { check_product(Bug::full_wait_by_one_warp); });
}
TEST(missing_empty_wait) {
  expect_caught({kWrong, "a race"}, [] { check_product(Bug::missing_empty_wait); });
}
TEST(released_before_the_product) {
  expect_caught({"c: element", "a race"}, [] { check_product(Bug::early_release); });
}
TEST(released_by_one_warp) {
  expect_caught({kWrong, "a race"}, [] { check_product(Bug::release_by_one_warp); });
}
TEST(too_few_bytes_expected) {
  expect_caught({"more bytes", "more bytes"}, [] { check_product(Bug::too_few_bytes); });
}
TEST(too_many_bytes_expected) {
  expect_caught({"and 64 bytes", "and 64 bytes"}, [] { check_product(Bug::too_many_bytes); });
}
TEST(wrong_parity) {
  expect_caught({kWrong, kWrong}, [] { check_product(Bug::wrong_parity); });
}
TEST(no_barrier_after_init) {
  expect_caught({"not been initialised", "a race"}, [] { check_product(Bug::no_init_barrier); });
}
TEST(missing_wgmma_wait) {
  expect_caught({"never waited for", "a race"}, [] { check_product(Bug::missing_wgmma_wait); });
}
TEST(missing_wgmma_fence) {
  expect_caught({"no wgmma_fence", "no wgmma_fence"},
                [] { check_product(Bug::missing_wgmma_fence); });
}
TEST(one_warp_skips_a_product) {
  expect_caught({"the warps of the warpgroup", "the warps of the warpgroup"},
                [] { check_product(Bug::one_warp_skips); });
}
TEST(tile_off_the_swizzle_period) {
  expect_caught({"not a multiple of 1024", "not a multiple of 1024"},
                [] { check_product(Bug::tile_off_period); });
}
TEST(too_many_arrivals) {
  expect_caught({"deadlock", "deadlock"}, [] { check_product(Bug::arrivals); });
}
TEST(tile_written_with_wrong_swizzle) {
  expect_caught({"c: element", "c: element"}, [] { check_square(Bug::wrong_swizzle); });
}
TEST(missing_async_fence) {
  expect_caught({kUnseen, "fence_async_shared"}, [] { check_square(Bug::unfenced_epilogue); });
}
