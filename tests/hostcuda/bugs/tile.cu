// Planted bugs in a staged product with cp.async, ldmatrix and mma.sync; Bug::none is the twin.
//
// C (m x n) = A (m x k) B^T (n x k), tiles of 32 x 32 x 32 by 4 warps, two stages; rows of 64 bytes
// are swizzled by chunks of 16 instead of padded.
#include "core/cuda/async_copy.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ldmatrix.cuh"
#include "core/cuda/mma.cuh"
#include "hostcuda/planted.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

enum class Bug {
  none,
  missing_wait,
  wait_one_short,
  missing_barrier_after_wait,
  stage_reuse,
  wrong_row,
  wrong_swizzle,
  off_by_one_row,
  uncommitted,
  misaligned_copy,
  not_converged,
  exit_in_flight,
};

constexpr int kTile = 32;

// Chunk c (8 elements) of row r lies at chunk c ^ (r / 2 % 4) of its row.
__device__ int at(int row, int column) { return row * kTile + (column ^ (row / 2 % 4 * 8)); }

__global__ void __launch_bounds__(128)
    product(Bug bug, const bf16* __restrict__ a, const bf16* __restrict__ b, float* __restrict__ c,
            int m, int n, int k) {
  THRIFTY_DYNAMIC_SHARED(bf16, smem);  // [2 stages][A, B][32][32]
  const int t = int(threadIdx.x), lane = t % 32, warp = t / 32;
  const int row0 = int(blockIdx.y) * kTile, column0 = int(blockIdx.x) * kTile;
  const int row = t / 4, part = t % 4 * 8;
  const auto load = [&](int stage, int step) {
    bf16* const tile = smem + stage * 2 * kTile * kTile;
    const int from = step * kTile + part;
    const int limit = m + (bug == Bug::off_by_one_row);
    const int shift = bug == Bug::misaligned_copy ? 2 : 0;
    cp_async<16>(tile + at(row, part) + shift, a + size_t(row0 + row) * k + from,
                 row0 + row < limit && from < k);
    cp_async<16>(tile + kTile * kTile + at(row, part), b + size_t(column0 + row) * k + from,
                 column0 + row < n && from < k);
    if (bug != Bug::uncommitted) cp_async_commit();
  };
  const int steps = (k + kTile - 1) / kTile;
  float acc[2][4] = {};  // warp: 16 rows, 16 columns
  const int warp_row = warp / 2 * 16, warp_column = warp % 2 * 16;
  load(0, 0);
  for (int step = 0; step < steps; ++step) {
    if (step + 1 < steps) load((step + 1) % 2, step + 1);
    if (bug == Bug::wait_one_short)
      cp_async_wait<2>();
    else if (step + 1 < steps)
      cp_async_wait<1>();
    else if (bug != Bug::missing_wait)
      cp_async_wait<0>();
    if (bug != Bug::missing_barrier_after_wait) syncthreads();
    const bf16* const tile_a = smem + step % 2 * 2 * kTile * kTile;
    const bf16* const tile_b = tile_a + kTile * kTile;
    for (int kk = 0; kk < kTile; kk += 16) {
      uint32_t fa[4], fb[4];
      const int r = lane % 16, column = kk + lane / 16 * 8;
      const int row_a = warp_row + (bug == Bug::wrong_row ? r ^ 1 : r);
      const int at_b = bug == Bug::wrong_swizzle
                           ? (warp_column + r) * kTile + (column ^ ((warp_column + r) % 4 * 8))
                           : at(warp_column + r, column);
      if (bug == Bug::not_converged && lane >= 16)
        ldmatrix<4>(fa, tile_a + at(row_a, column));
      else
        ldmatrix<4>(fa, tile_a + at(row_a, column));
      ldmatrix<4>(fb, tile_b + at_b);
      mma_m16n8k16<bf16>(acc[0], fa, fb[0], fb[2]);
      mma_m16n8k16<bf16>(acc[1], fa, fb[1], fb[3]);
    }
    if (bug != Bug::stage_reuse) syncthreads();
  }
  if (bug == Bug::exit_in_flight) load(0, 0);
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 4; ++i) {
      const int r = row0 + warp_row + lane / 4 + i / 2 * 8;
      const int col = column0 + warp_column + half * 8 + lane % 4 * 2 + i % 2;
      if (r < m && col < n) c[size_t(r) * n + col] = acc[half][i];
    }
}

void check_product_of(Bug bug, int m, int n, int k) {
  const auto a = normal_values<bf16>(size_t(m) * k, 1), b = normal_values<bf16>(size_t(n) * k, 2);
  std::vector<double> expected;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l)
        sum += as_double(a[size_t(i * k + l)]) * as_double(b[size_t(j * k + l)]);
      expected.push_back(sum);
    }
  Buffer<bf16> device_a(a), device_b(b);
  for_each_schedule([&] {
    Buffer<float> c(size_t(m) * n);
    const dim3 grid(unsigned(n + kTile - 1) / kTile, unsigned(m + kTile - 1) / kTile);
    expect_ok(launch(product, grid, 128, 4 * kTile * kTile * sizeof(bf16), nullptr, bug,
                     device_a.data(), device_b.data(), c.data(), m, n, k));
    expect_close(c, expected, 1e-4, 1e-5, "c");
    return c.bytes();
  });
}

void check_product(Bug bug) { check_product_of(bug, 37, 24, 104); }

}  // namespace

TEST(product_twin) {
  check_product(Bug::none);
  check_product_of(Bug::none, 32, 32, 32);
  check_product_of(Bug::none, 1, 3, 8);
}
TEST(missing_cp_async_wait) {
  expect_caught({"never waited for", "has not been waited for"},
                [] { check_product(Bug::missing_wait); });
}
TEST(cp_async_wait_one_short) {
  expect_caught({"never waited for", "has not been waited for"},
                [] { check_product(Bug::wait_one_short); });
}
TEST(cp_async_uncommitted) {
  expect_caught({"c: element", "has not been waited for"}, [] { check_product(Bug::uncommitted); });
}
TEST(missing_barrier_after_wait) {
  expect_caught({"c: element", "which no thread has written"},
                [] { check_product(Bug::missing_barrier_after_wait); });
}
TEST(stage_reuse_without_barrier) {
  expect_caught({"c: element", "a race"}, [] { check_product(Bug::stage_reuse); });
}
TEST(wrong_ldmatrix_row) {
  expect_caught({"c: element", "c: element"}, [] { check_product(Bug::wrong_row); });
}
TEST(wrong_swizzle) {
  expect_caught({"c: element", "c: element"}, [] { check_product(Bug::wrong_swizzle); });
}
TEST(copy_past_the_end) {
  expect_caught({"outside of an allocation", kUnseen}, [] { check_product(Bug::off_by_one_row); });
}
TEST(misaligned_cp_async) {
  expect_caught({"not a multiple of 16", "not a multiple of 16"},
                [] { check_product(Bug::misaligned_copy); });
}
TEST(ldmatrix_not_converged) {
  expect_caught({"not converged", "not converged"}, [] { check_product(Bug::not_converged); });
}
TEST(exit_with_copies_in_flight) {
  expect_caught({"never waited for", "never waited for"},
                [] { check_product(Bug::exit_in_flight); });
}
