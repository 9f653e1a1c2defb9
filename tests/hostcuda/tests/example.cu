// The example of docs/cuda.md: a kernel with cp.async, ldmatrix and mma.sync, and its host test.
//
// C (m, n) = A (m, k) B^T with B (n, k): one warp per 16 x 16 tile, one cp.async stage of 16
// columns.
#include "core/cuda/async_copy.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ldmatrix.cuh"
#include "core/cuda/mma.cuh"
#include "hostcuda/harness.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

template <class T>
__global__ void __launch_bounds__(32) tile_product(const T* __restrict__ a, const T* __restrict__ b,
                                                   float* __restrict__ c, int m, int n, int k) {
  THRIFTY_SHARED(T, tile_a, [16][24]);  // 8 columns of padding keep ldmatrix free of bank conflicts
  THRIFTY_SHARED(T, tile_b, [16][24]);
  const int lane = lane_index();
  const int row0 = int(blockIdx.y) * 16, column0 = int(blockIdx.x) * 16;
  const int row = lane / 2, part = lane % 2 * 8;  // each lane copies 8 elements of one row
  float accumulator[2][4] = {};
  for (int step = 0; step < k; step += 16) {
    const bool inside_k = step + part < k;  // k is a multiple of 8
    const bool valid_a = inside_k && row0 + row < m, valid_b = inside_k && column0 + row < n;
    cp_async<16>(&tile_a[row][part], a + size_t(row0 + row) * k + step + part, valid_a);
    cp_async<16>(&tile_b[row][part], b + size_t(column0 + row) * k + step + part, valid_b);
    cp_async_commit();
    cp_async_wait<0>();
    syncthreads();
    uint32_t fragment_a[4], fragment_b[4];
    ldmatrix<4>(fragment_a, &tile_a[lane % 16][lane / 16 * 8]);
    ldmatrix<4>(fragment_b, &tile_b[lane % 16][lane / 16 * 8]);
    mma_m16n8k16<T>(accumulator[0], fragment_a, fragment_b[0], fragment_b[2]);
    mma_m16n8k16<T>(accumulator[1], fragment_a, fragment_b[1], fragment_b[3]);
    syncthreads();
  }
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 4; ++i) {
      const int r = row0 + lane / 4 + i / 2 * 8, col = column0 + half * 8 + lane % 4 * 2 + i % 2;
      if (r < m && col < n) c[size_t(r) * n + col] = accumulator[half][i];
    }
}

template <class T>
void check_tile_product(int m, int n, int k) {
  const auto a = normal_values<T>(size_t(m) * k, 1), b = normal_values<T>(size_t(n) * k, 2);
  std::vector<double> expected;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double sum = 0;
      for (int l = 0; l < k; ++l)
        sum += as_double(a[size_t(i * k + l)]) * as_double(b[size_t(j * k + l)]);
      expected.push_back(sum);
    }
  Buffer<T> device_a(a), device_b(b);
  for_each_schedule([&] {
    Buffer<float> c(size_t(m) * n);
    const dim3 grid(unsigned(n + 15) / 16, unsigned(m + 15) / 16);
    expect_ok(launch(tile_product<T>, grid, 32, 0, nullptr, device_a.data(), device_b.data(),
                     c.data(), m, n, k));
    expect_close(c, expected, 1e-4, 1e-4, "c");
    return c.bytes();
  });
}

}  // namespace

TEST(example_tile_product_bf16) { check_tile_product<bf16>(19, 21, 40); }
TEST(example_tile_product_fp16) { check_tile_product<fp16>(16, 5, 8); }
