// Planted bugs in a row softmax, a histogram and a scan of columns; Bug::none is the correct twin.
#include "core/cuda/atomic.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/cuda/memory.cuh"
#include "hostcuda/planted.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

enum class Bug {
  none,
  missing_barrier,
  off_by_one_load,
  off_by_one_store,
  wrong_mask,
  early_exit,
  exit_before_shuffle,
  skipped_barrier,
  two_places,
  unwritten_output,
  unwritten_shared,
  plain_add,
  global_plain_add,
  shared_index,
  dynamic_index,
  dynamic_store,
  misaligned,
  warp_order,
  unfenced,
};

// y = softmax(x) along rows of n; one block of 64 threads per row.
__global__ void __launch_bounds__(64)
    softmax_rows(Bug bug, const float* __restrict__ x, float* __restrict__ y, int n) {
  THRIFTY_SHARED(float, part, [2][2]);
  const int t = int(threadIdx.x), lane = lane_index(), warp = warp_index();
  x += size_t(blockIdx.x) * size_t(n);
  y += size_t(blockIdx.x) * size_t(n);
  if (bug == Bug::early_exit && t >= n) return;
  float top = -3e38f;
  for (int i = t; i < n + (bug == Bug::off_by_one_load); i += 64) top = fmaxf(top, x[i]);
  if (bug == Bug::exit_before_shuffle && t >= n) return;
  if (bug == Bug::wrong_mask) {
    if (lane < 24) top = fmaxf(top, shfl_xor(top, 16));
  }
  top = warp_max(top);
  if (lane == 0) part[0][warp] = top;
  if (bug == Bug::skipped_barrier) {
    if (warp == 0) syncthreads();
  } else if (bug == Bug::two_places) {
    if (warp == 0)
      syncthreads();
    else
      syncthreads();
  } else if (bug != Bug::missing_barrier) {
    syncthreads();
  }
  top = fmaxf(part[0][0], part[0][1]);
  float sum = 0;
  for (int i = t; i < n; i += 64) sum += fast_exp(x[i] - top);
  sum = warp_sum(sum);
  if (lane == 0) part[1][warp] = sum;
  syncthreads();
  sum = part[1][0] + part[1][1];
  for (int i = t; i < n + (bug == Bug::off_by_one_store); i += 64)
    if (bug != Bug::unwritten_output || i != 37) y[i] = fast_exp(i < n ? x[i] - top : 0.0f) / sum;
}

void check_softmax_of(Bug bug, int rows, int n) {
  const auto x = normal_values<float>(size_t(rows * n), 7);
  std::vector<double> expected;
  for (int r = 0; r < rows; ++r) {
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += std::exp(double(x[size_t(r * n + i)]));
    for (int i = 0; i < n; ++i) expected.push_back(std::exp(double(x[size_t(r * n + i)])) / sum);
  }
  Buffer<float> input(x);
  for_each_schedule([&] {
    Buffer<float> y(x.size());
    expect_ok(launch(softmax_rows, unsigned(rows), 64, 0, nullptr, bug, input.data(), y.data(), n));
    expect_close(y, expected, 1e-6, 1e-5, "softmax");
    return y.bytes();
  });
}

void check_softmax(Bug bug) { check_softmax_of(bug, 3, 100); }

// counts of 64 keys over all blocks, gathered per block in dynamic shared memory.
__global__ void __launch_bounds__(96)
    histogram(Bug bug, const uint8_t* __restrict__ keys, int n, int* __restrict__ counts) {
  THRIFTY_DYNAMIC_SHARED(int, mine);  // [64]
  THRIFTY_SHARED(int, total, [1]);
  const int t = int(threadIdx.x);
  if (t < (bug == Bug::dynamic_store ? 65 : 64) && bug != Bug::unwritten_shared) mine[t] = 0;
  if (t == 0) total[bug == Bug::shared_index ? 16 : 0] = 0;
  syncthreads();
  for (int i = int(blockIdx.x) * 96 + t; i < n; i += 96 * int(gridDim.x)) {
    const int key = keys[i] + (bug == Bug::dynamic_index ? 32 : 0);
    if (bug == Bug::plain_add)
      mine[key] += 1;
    else
      atomic_add(&mine[key], 1);
  }
  syncthreads();
  if (t < 64) {
    if (bug == Bug::global_plain_add)
      counts[t] += mine[t];
    else
      atomic_add(&counts[t], mine[t]);
  }
}

void check_histogram(Bug bug) {
  std::mt19937 generator(3);
  std::vector<uint8_t> keys(500);
  std::vector<double> expected(64);
  for (uint8_t& key : keys) ++expected[key = uint8_t(generator() % 64)];
  Buffer<uint8_t> input(keys);
  for_each_schedule([&] {
    Buffer<int> counts(std::vector<int>(64, 0));
    expect_ok(launch(histogram, 3, 96, 64 * sizeof(int), nullptr, bug, input.data(),
                     int(keys.size()), counts.data()));
    expect_close(counts, expected, 0, 0, "counts");
    return counts.bytes();
  });
}

// Sums 128 x 4 values as float4; a warp passes its part through shared memory with syncwarp, the
// last block to finish adds the parts of all.
__global__ void __launch_bounds__(32) sum_all(Bug bug, const float* __restrict__ x, float* parts,
                                              int* done, float* __restrict__ out) {
  THRIFTY_SHARED(float, lanes, [32]);
  const int lane = lane_index(), block = int(blockIdx.x);
  const float* at = x + size_t(block * 32 + lane) * 4 + (bug == Bug::misaligned ? 1 : 0);
  const auto v = load_vec<4>(at);
  lanes[lane] = (v[0] + v[1]) + (v[2] + v[3]);
  if (bug == Bug::warp_order)
    shfl(0, 0);  // converges the warp, but orders no memory
  else
    syncwarp();
  if (lane == 0) {
    float sum = 0;
    for (int i = 0; i < 32; ++i) sum += lanes[i];
    parts[block] = sum;
    if (bug != Bug::unfenced) threadfence();
    if (atomic_add(done, 1) == int(gridDim.x) - 1) {
      threadfence();
      sum = 0;
      for (int i = 0; i < int(gridDim.x); ++i) sum += parts[i];
      *out = sum;
    }
  }
}

void check_sum(Bug bug) {
  const auto x = normal_values<float>(516, 5);
  double expected = 0;
  for (int i = 0; i < 512; ++i) expected += x[size_t(i)];
  Buffer<float> input(x);
  for_each_schedule([&] {
    Buffer<float> parts(4), out(1);
    Buffer<int> done(std::vector<int>{0});
    expect_ok(launch(sum_all, 4, 32, 0, nullptr, bug, input.data(), parts.data(), done.data(),
                     out.data()));
    expect_close(out, {expected}, 1e-4, 0, "sum");
    return out.bytes();
  });
}

}  // namespace

TEST(softmax_twin) {
  check_softmax(Bug::none);
  check_softmax_of(Bug::none, 2, 33);
  check_softmax_of(Bug::none, 1, 1);
}
TEST(histogram_twin) { check_histogram(Bug::none); }
TEST(sum_twin) { check_sum(Bug::none); }

TEST(missing_barrier) {
  expect_caught({kWrong, "no thread has written"}, [] { check_softmax(Bug::missing_barrier); });
}
TEST(off_by_one_load) {
  expect_caught({"heap-buffer-overflow", kUnseen},
                [] { check_softmax_of(Bug::off_by_one_load, 1, 100); });
}
TEST(off_by_one_store) {
  expect_caught({"heap-buffer-overflow", "a race"}, [] { check_softmax(Bug::off_by_one_store); });
}
TEST(wrong_shuffle_mask) {
  expect_caught({"shfl_xor", "shfl_xor"}, [] { check_softmax(Bug::wrong_mask); });
}
TEST(early_exit) {
  expect_caught({"exit", "exit"}, [] { check_softmax_of(Bug::early_exit, 1, 33); });
}
TEST(exit_before_shuffle) {
  expect_caught({"exit", "exit"}, [] { check_softmax_of(Bug::exit_before_shuffle, 1, 33); });
}
TEST(skipped_barrier) {
  expect_caught({"syncthreads", "a race"}, [] { check_softmax(Bug::skipped_barrier); });
}
TEST(barriers_at_two_places) {
  expect_caught({"another thread waits", "another thread waits"},
                [] { check_softmax(Bug::two_places); });
}
TEST(unwritten_output) {
  expect_caught({"softmax: element 37 is", "softmax: element 37 is"},
                [] { check_softmax(Bug::unwritten_output); });
}
TEST(unwritten_shared) {
  expect_caught({"counts", "no thread has written"},
                [] { check_histogram(Bug::unwritten_shared); });
}
TEST(plain_add_shared) {
  expect_caught({kUnseen, "a race"}, [] { check_histogram(Bug::plain_add); });
}
TEST(plain_add_global) {
  expect_caught({kUnseen, "of another block"}, [] { check_histogram(Bug::global_plain_add); });
}
TEST(shared_index_static) {
  expect_caught({"out of bounds", "outside of what was launched"},
                [] { check_histogram(Bug::shared_index); });
}
TEST(shared_index_dynamic) {
  expect_caught({"beyond what was launched", "beyond what was launched"},
                [] { check_histogram(Bug::dynamic_index); });
}
TEST(shared_store_past_the_end) {
  expect_caught({"use-after-poison", "outside of what was launched"},
                [] { check_histogram(Bug::dynamic_store); });
}
TEST(misaligned_vector) {
  expect_caught({"not a multiple of 16", "not a multiple of 16"},
                [] { check_sum(Bug::misaligned); });
}
TEST(shuffle_as_barrier) {
  expect_caught({kUnseen, "a race"}, [] { check_sum(Bug::warp_order); });
}
TEST(missing_fence) {
  expect_caught({kUnseen, "of another block"}, [] { check_sum(Bug::unfenced); });
}
