// tma_load against plain loops: 2-D and 3-D maps, every swizzle, boxes that stick out on all sides.
#include "core/cuda/tma.cuh"

#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "hostcuda/harness.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

// Loads one box and copies shared memory as it lies to out.
template <class T, int kRank>
__global__ void __launch_bounds__(64)
    load_box(const __grid_constant__ TensorMap map, T* __restrict__ out, int elements, int x, int y,
             int z) {
  THRIFTY_DYNAMIC_SHARED(T, tile);
  THRIFTY_SHARED(Mbarrier, full, [1]);
  if (threadIdx.x == 0) {
    mbarrier_init(full, 1);
    fence_mbarrier_init();
  }
  syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect(full, elements * int(sizeof(T)));
    if constexpr (kRank == 2)
      tma_load_2d(tile, &map, full, x, y);
    else
      tma_load_3d(tile, &map, full, x, y, z);
  }
  mbarrier_wait(full, 0);
  for (int i = int(threadIdx.x); i < elements; i += 64) out[i] = tile[i];
}

template <class T, int kRank>
void check_box(Swizzle swizzle, const uint64_t (&sizes)[3], const uint32_t (&box)[3], int x, int y,
               int z) {
  needs_sm90();
  const uint64_t pitch = sizes[0] + 8, layer = pitch * sizes[1] + 16;
  const auto source = normal_values<T>(layer * sizes[2], 11);
  const uint32_t elements = box[0] * box[1] * box[2];
  std::vector<double> expected(elements);
  for (uint32_t k = 0; k < box[2]; ++k)
    for (uint32_t j = 0; j < box[1]; ++j)
      for (uint32_t i = 0; i < box[0]; ++i) {
        const int64_t at[] = {x + int64_t(i), y + int64_t(j), z + int64_t(k)};
        bool inside = true;
        for (int d = 0; d < 3; ++d) inside = inside && at[d] >= 0 && at[d] < int64_t(sizes[d]);
        const uint32_t offset = ((k * box[1] + j) * box[0] + i) * uint32_t(sizeof(T));
        expected[swizzled(swizzle, offset) / sizeof(T)] =
            inside
                ? as_double(source[size_t(at[2]) * layer + size_t(at[1]) * pitch + size_t(at[0])])
                : 0.0;
      }
  Buffer<T> tensor(source);
  TensorMap map;
  if constexpr (kRank == 2)
    expect_ok(make_tensor_map(&map, tensor.data(), {sizes[0], sizes[1]}, {1, pitch},
                              {box[0], box[1]}, swizzle));
  else
    expect_ok(make_tensor_map(&map, tensor.data(), {sizes[0], sizes[1], sizes[2]},
                              {1, pitch, layer}, {box[0], box[1], box[2]}, swizzle));
  for_each_schedule([&] {
    Buffer<T> out(elements);
    expect_ok(launch(load_box<T, kRank>, 1, 64, elements * sizeof(T), nullptr, map, out.data(),
                     int(elements), x, y, z));
    expect_close(out, expected, 0, 0, "box");
    return out.bytes();
  });
}

template <class T>
void check_swizzles() {
  for (const Swizzle swizzle :
       {Swizzle::none, Swizzle::bytes32, Swizzle::bytes64, Swizzle::bytes128}) {
    const uint32_t wide =
        swizzle == Swizzle::none ? 40 : uint32_t(swizzle_span(swizzle) / sizeof(T));
    check_box<T, 2>(swizzle, {104, 37, 1}, {wide, 24, 1}, 16, 8, 0);
    check_box<T, 2>(swizzle, {104, 37, 1}, {wide, 16, 1}, -5, 30, 0);
    check_box<T, 2>(swizzle, {104, 37, 1}, {wide, 8, 1}, 90, -3, 0);
    check_box<T, 3>(swizzle, {72, 9, 5}, {wide, 8, 2}, 8, 4, 1);
    check_box<T, 3>(swizzle, {72, 9, 5}, {wide, 4, 3}, 60, -1, 3);
  }
}

}  // namespace

TEST(tma_bf16) { check_swizzles<bf16>(); }
TEST(tma_float) { check_swizzles<float>(); }

TEST(tensor_map_refuses) {
  Buffer<bf16> tensor(std::vector<bf16>(4096, from_float<bf16>(0.0f)));
  TensorMap map;
  const auto make = [&](const bf16* base, uint64_t pitch, uint32_t wide, uint32_t rows,
                        Swizzle swizzle) {
    return make_tensor_map(&map, base, {64, 32}, {1, pitch}, {wide, rows}, swizzle);
  };
  expect(make(tensor.data(), 64, 64, 16, Swizzle::bytes128) == cudaSuccess, "a good map");
  expect(make(tensor.data() + 4, 64, 64, 16, Swizzle::bytes128) != cudaSuccess, "base on 8 bytes");
  expect(make(tensor.data(), 68, 64, 16, Swizzle::bytes128) != cudaSuccess, "pitch of 136 bytes");
  expect(make(tensor.data(), 64, 128, 16, Swizzle::bytes128) != cudaSuccess, "box over the span");
  expect(make(tensor.data(), 64, 64, 257, Swizzle::bytes128) != cudaSuccess, "257 rows");
  expect(make(tensor.data(), 64, 12, 16, Swizzle::none) != cudaSuccess, "rows of 24 bytes");
}
