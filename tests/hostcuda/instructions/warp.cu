// Shuffles, votes, matches and barriers with partial masks, segments and partial warps, against
// plain loops over lanes.
#include "core/cuda/warp.cuh"

#include "core/cuda/atomic.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "hostcuda/harness.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

constexpr int kRows = 12;

// Row r of out holds what operation r gave each thread. The upper and lower half of each warp go
// separate ways in rows 8 and 9.
__global__ void warp_operations(const int* __restrict__ in, int* __restrict__ out) {
  const int t = int(threadIdx.x), threads = int(blockDim.x), lane = lane_index();
  const int last = threads - warp_index() * 32;
  const uint32_t mask = last >= 32 ? kFullMask : (1u << last) - 1;
  const int v = in[t];
  int row = 0;
  const auto put = [&](int value) { out[row++ * threads + t] = value; };
  put(shfl(v, 3, mask));
  put(shfl(v, lane + 1, mask, 4));
  put(shfl_xor(v, 1, mask, 2));
  put(shfl_down(v, 3, mask, 8));
  put(shfl_up(v, 2, mask, 8));
  put(int(warp_ballot(v > 4, mask)));
  put(warp_any(v == 7, mask) * 2 + warp_all(v < 9, mask));
  put(int(warp_match(v, mask)));
  const uint32_t half = (lane < 4 ? 0xfu : ~0xfu) & mask;
  if (lane < 4)
    put(shfl_xor(v, 3, half));
  else
    put(popcount(warp_ballot(v & 1, half)));
  syncwarp(half);
  put(block_count(v > 4));
  put(block_any(v == 8) * 2 + block_all(v >= 0));
  put(popcount(uint32_t(v)) + find_first_set(uint32_t(v)) * 100 +
      count_leading_zeros(uint32_t(v)) * 10000);
}

std::vector<double> expected_rows(const std::vector<int>& in) {
  const int threads = int(in.size());
  std::vector<double> out(size_t(kRows * threads));
  int above = 0, eights = 0;
  for (int v : in) above += v > 4, eights += v == 8;
  for (int t = 0; t < threads; ++t) {
    const int base = t / 32 * 32, lane = t % 32, lanes = std::min(32, threads - base);
    const auto at = [&](int l) { return in[size_t(base + l)]; };
    int row = 0;
    const auto put = [&](int value) { out[size_t(row++ * threads + t)] = value; };
    const auto vote = [&](int first, int last, auto&& predicate) {
      uint32_t bits = 0;
      for (int l = first; l < last; ++l) bits |= uint32_t(predicate(at(l))) << l;
      return bits;
    };
    put(at(3));
    put(at(lane / 4 * 4 + (lane + 1) % 4));
    put(at(lane ^ 1));
    put(lane % 8 + 3 < 8 ? at(lane + 3) : at(lane));
    put(lane % 8 >= 2 ? at(lane - 2) : at(lane));
    const uint32_t high = vote(0, lanes, [](int v) { return v > 4; });
    put(int(high));
    bool seven = false, small = true;
    for (int l = 0; l < lanes; ++l) seven |= at(l) == 7, small &= at(l) < 9;
    put(seven * 2 + small);
    put(int(vote(0, lanes, [&](int v) { return v == at(lane); })));
    if (lane < 4)
      put(at(lane ^ 3));
    else
      put(__builtin_popcount(vote(4, lanes, [](int v) { return v & 1; })));
    put(above);
    put((eights > 0) * 2 + 1);
    const int v = at(lane);
    put(__builtin_popcount(unsigned(v)) + __builtin_ffs(v) * 100 +
        (v ? __builtin_clz(unsigned(v)) : 32) * 10000);
  }
  return out;
}

void check_operations(int threads) {
  std::mt19937 generator{unsigned(threads)};
  std::vector<int> in(static_cast<size_t>(threads));
  for (int& v : in) v = int(generator() % 10);
  Buffer<int> input(in);
  for_each_schedule([&] {
    Buffer<int> out(size_t(kRows * threads));
    expect_ok(launch(warp_operations, 1, unsigned(threads), 0, nullptr, input.data(), out.data()));
    expect_close(out, expected_rows(in), 0, 0, "row * threads + thread");
    return out.bytes();
  });
}

// Warps 0 and 1 produce, warps 2 and 3 consume, through two named barriers.
__global__ void __launch_bounds__(128)
    hand_over(const int* __restrict__ in, int* __restrict__ out, int rounds) {
  THRIFTY_SHARED(int, slot, [64]);
  const int t = int(threadIdx.x) % 64;
  for (int round = 0; round < rounds; ++round) {
    if (threadIdx.x < 64) {
      if (round > 0) named_barrier_sync(2, 128);  // the slot is free again
      slot[t] = in[round * 64 + t];
      named_barrier_arrive(1, 128);
    } else {
      named_barrier_sync(1, 128);
      out[round * 64 + t] = slot[63 - t] * 2;
      if (round + 1 < rounds) named_barrier_arrive(2, 128);
    }
  }
}

// Types other than int, and threads in three dimensions.
__global__ void other_types(const float* __restrict__ in, double* __restrict__ out) {
  const int rank = thread_rank(), lane = lane_index();
  const float v = in[rank];
  const double wide = shfl_down(double(v) * 3, 1, kFullMask, 16);
  const __nv_bfloat162 pair = shfl_xor(__floats2bfloat162_rn(v, float(lane)), 5);
  const int64_t whole = shfl(int64_t(rank) << 33, 7);
  out[rank] = wide + double(to_float(pair.x)) + double(to_float(pair.y)) * 64 +
              double(whole >> 33) + popcount(warp_match(double(lane % 3))) * 4096;
}

// Every kind of atomic on one shared and one global word.
__global__ void __launch_bounds__(96) atomics(int* __restrict__ out, float* __restrict__ sum) {
  THRIFTY_SHARED(int, word, [4]);
  const int t = int(threadIdx.x);
  if (t < 4) word[t] = t == 1 ? 1 << 30 : 0;
  syncthreads();
  atomic_max(&word[0], t * 7 % 96);
  atomic_min(&word[1], t + 3);
  atomic_or(&word[2], 1 << t % 20);
  for (int old = atomic_load(&word[3]);;) {  // add 2 by compare and swap
    const int seen = atomic_cas(&word[3], old, old + 2);
    if (seen == old) break;
    old = seen;
  }
  atomic_add(sum, 0.5f);
  syncthreads();
  if (t < 4) atomic_add(&out[t], word[t]);
}

}  // namespace

TEST(warp_operations_full) { check_operations(64); }
TEST(warp_operations_partial_warp) { check_operations(48); }
TEST(warp_operations_one_warp) { check_operations(24); }

TEST(named_barriers) {
  std::vector<int> in(3 * 64);
  std::vector<double> expected(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i] = int(i * i % 101);
  for (size_t i = 0; i < in.size(); ++i) expected[i] = in[i / 64 * 64 + 63 - i % 64] * 2;
  Buffer<int> input(in);
  for_each_schedule([&] {
    Buffer<int> out(in.size());
    expect_ok(launch(hand_over, 1, 128, 0, nullptr, input.data(), out.data(), 3));
    expect_close(out, expected, 0, 0, "out");
    return out.bytes();
  });
}

TEST(other_types_and_dimensions) {
  const auto in = normal_values<float>(96, 8);
  std::vector<double> expected;
  for (int t = 0; t < 96; ++t) {
    const int base = t / 32 * 32, lane = t % 32;
    expected.push_back(double(in[size_t(lane % 16 < 15 ? t + 1 : t)]) * 3 +
                       as_double(from_float<bf16>(in[size_t(base + (lane ^ 5))])) +
                       (lane ^ 5) * 64 + base + 7 + (lane % 3 < 2 ? 11 : 10) * 4096);
  }
  Buffer<float> input(in);
  for_each_schedule([&] {
    Buffer<double> out(96);
    expect_ok(launch(other_types, 1, dim3(32, 1, 3), 0, nullptr, input.data(), out.data()));
    expect_close(out, expected, 1e-9, 0, "out");
    return out.bytes();
  });
}

TEST(atomic_operations) {
  for_each_schedule([&] {
    Buffer<int> out(std::vector<int>(4, 0));
    Buffer<float> sum(std::vector<float>{0});
    expect_ok(launch(atomics, 2, 96, 0, nullptr, out.data(), sum.data()));
    expect_close(out, {190, 6, 2 * ((1 << 20) - 1), 2 * 192}, 0, 0, "word");
    expect_close(sum, {96}, 0, 0, "sum");
    return out.bytes();
  });
}

#if defined(THRIFTY_HOST_CUDA)
// What a lane outside the mask holds is undefined.
__global__ void __launch_bounds__(32) outside_mask(float* out) {
  const int lane = lane_index();
  float v = 1.0f;
  if (lane < 16) v = shfl(2.0f, lane + 16, 0xffffu);
  out[lane] = v;
}

TEST(shuffle_from_outside_the_mask_is_poison) {
  Buffer<float> out(32);
  expect_ok(launch(outside_mask, 1, 32, 0, nullptr, out.data()));
  const auto values = out.values();
  for (int lane = 0; lane < 32; ++lane)
    expect(lane < 16 ? values[size_t(lane)] != values[size_t(lane)] : values[size_t(lane)] == 1.0f,
           "lane " + std::to_string(lane));
}
#endif
