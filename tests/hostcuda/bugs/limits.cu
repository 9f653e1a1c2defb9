// What a launch may not ask for, threads that cannot go on, and the orders that schedules promise.
#include "core/cuda/atomic.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/memory.cuh"
#include "hostcuda/options.h"
#include "hostcuda/planted.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

__global__ void nothing() {}

__global__ void large_static() {
  THRIFTY_SHARED(float, a, [40][256]);
  THRIFTY_SHARED(float, b, [9][256]);
  a[0][threadIdx.x] = b[0][threadIdx.x] = 0;
}

// Waits for a flag that no thread sets.
__global__ void poll(const int* flag) {
  while (atomic_load(flag) == 0) {
  }
}

// Every thread waits for another to arrive.
__global__ void crossed_barriers() {
  if (warp_index() == 0) {
    named_barrier_sync(1, 64);
    named_barrier_sync(2, 64);
  } else {
    named_barrier_sync(2, 64);
    named_barrier_sync(1, 64);
  }
}

__global__ void barrier_of_whom(int id, int threads) { named_barrier_sync(id, threads); }

// order[i] is the i-th thread to come.
__global__ void come(int* next, int* order) {
  order[atomic_add(next, 1)] = thread_rank() + 1000 * int(blockIdx.x);
}

std::vector<int> order_under(const host::Schedule& schedule) {
  host::options().schedule = schedule;
  Buffer<int> next(std::vector<int>{0}), order(192);
  expect_ok(launch(come, 2, dim3(32, 3), 0, nullptr, next.data(), order.data()));
  return order.values();
}

}  // namespace

TEST(block_of_2000_threads) {
  expect_fault("1 to 1024 threads", [] { launch(nothing, 1, 2000, 0, nullptr); });
}
TEST(empty_grid_launches_nothing) { expect_ok(launch(nothing, dim3(3, 0), 32, 0, nullptr)); }
TEST(too_much_dynamic_shared) {
  expect_fault("dynamic shared memory", [] { launch(nothing, 1, 32, 228 << 10, nullptr); });
}
TEST(too_much_static_shared) {
  expect_fault("over 48 KiB", [] { launch(large_static, 1, 256, 0, nullptr); });
}
TEST(livelock) {
  Buffer<int> flag(std::vector<int>{0});
  expect_fault("livelock", [&] { launch(poll, 1, 64, 0, nullptr, flag.data()); });
}
TEST(deadlock) {
  expect_fault("deadlock: [32 threads, 0 to 31, waits in named barrier at limits.cu",
               [] { launch(crossed_barriers, 1, 64, 0, nullptr); });
}
TEST(named_barrier_arguments) {
  expect_fault("not in 1..15", [] { launch(barrier_of_whom, 1, 64, 0, nullptr, 16, 64); });
  expect_fault("multiple of 32", [] { launch(barrier_of_whom, 1, 64, 0, nullptr, 1, 40); });
  expect_fault("multiple of 32", [] { launch(barrier_of_whom, 1, 64, 0, nullptr, 1, 96); });
}

TEST(schedules_order_threads) {
  using Kind = host::Schedule::Kind;
  std::vector<int> rising, starved;
  for (int block = 0; block < 2; ++block)
    for (int i = 0; i < 96; ++i) {
      rising.push_back(1000 * block + i);
      starved.push_back(1000 * block + (i + 64) % 96);  // warp 1 last, warp 2 first
    }
  expect(order_under({Kind::in_order}) == rising, "in order");
  expect(order_under({Kind::starve, 1}) == starved, "starve 1");
  const std::vector<int> falling = order_under({Kind::reversed});
  expect(std::equal(falling.begin(), falling.end(), rising.rbegin()), "reversed");
  std::vector<int> shuffled = order_under({Kind::random, 3});
  expect(shuffled == order_under({Kind::random, 3}), "a seed gives one order");
  expect(shuffled != order_under({Kind::random, 4}) && shuffled != rising, "seeds differ");
  std::sort(shuffled.begin(), shuffled.end());
  expect(shuffled == rising, "all threads come once");
}
