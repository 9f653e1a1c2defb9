// cp.async, ldmatrix, mma.sync, vector accesses and conversions against plain loops.
#include "core/cuda/async_copy.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ldmatrix.cuh"
#include "core/cuda/memory.cuh"
#include "core/cuda/mma.cuh"
#include "hostcuda/harness.h"

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

namespace {

// D (16 x 8) = C + A (16 x 16) B (16 x 8); every fragment element is put where the PTX manual has
// it.
template <class T>
__global__ void __launch_bounds__(32)
    single_mma(const T* __restrict__ a, const T* __restrict__ b, const float* __restrict__ c,
               float* __restrict__ out) {
  const int lane = lane_index(), group = lane / 4, pair = lane % 4 * 2;
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) {
    const T* at = a + (group + i % 2 * 8) * 16 + pair + i / 2 * 8;
    fa[i] = pack2(at[0], at[1]);
  }
  for (int i = 0; i < 2; ++i) {
    const T* at = b + (pair + i * 8) * 8 + group;
    fb[i] = pack2(at[0], at[8]);
  }
  float d[4];
  for (int i = 0; i < 4; ++i) d[i] = c[(group + i / 2 * 8) * 8 + pair + i % 2];
  mma_m16n8k16<T>(d, fa, fb[0], fb[1]);
  for (int i = 0; i < 4; ++i) out[(group + i / 2 * 8) * 8 + pair + i % 2] = d[i];
}

template <class T>
void check_mma(unsigned seed) {
  const auto a = normal_values<T>(256, seed), b = normal_values<T>(128, seed + 1);
  const auto c = normal_values<float>(128, seed + 2);
  std::vector<double> expected;
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 8; ++n) {
      double sum = c[size_t(m * 8 + n)];
      for (int k = 0; k < 16; ++k)
        sum += as_double(a[size_t(m * 16 + k)]) * as_double(b[size_t(k * 8 + n)]);
      expected.push_back(sum);
    }
  Buffer<T> device_a(a), device_b(b);
  Buffer<float> device_c(c);
  for_each_schedule([&] {
    Buffer<float> out(128);
    expect_ok(launch(single_mma<T>, 1, 32, 0, nullptr, device_a.data(), device_b.data(),
                     device_c.data(), out.data()));
    expect_close(out, expected, 1e-5, 1e-6, "d");
    return out.bytes();
  });
}

// Copies 32 rows of 8 elements by copies of kBytes, then loads kCount matrices of 8 rows each.
template <int kCount, bool kTrans, int kBytes>
__global__ void __launch_bounds__(32)
    copy_and_load(const uint16_t* __restrict__ in, uint32_t* __restrict__ out, int valid_rows) {
  THRIFTY_SHARED(uint16_t, tile, [32][8]);
  const int lane = lane_index();
  constexpr int kStep = kBytes / 2;
  for (int column = 0; column < 8; column += kStep) {
    cp_async<kBytes>(&tile[lane][column], in + lane * 8 + column, lane < valid_rows);
    cp_async_commit();
  }
  cp_async_wait<0>();
  syncwarp();
  uint32_t r[kCount];
  ldmatrix<kCount, kTrans>(r, tile[lane]);
  for (int i = 0; i < kCount; ++i) out[i * 32 + lane] = r[i];
}

template <int kCount, bool kTrans, int kBytes>
void check_ldmatrix() {
  constexpr int kValidRows = 27;
  std::mt19937 generator(5);
  std::vector<uint16_t> in(256);
  for (uint16_t& v : in) v = uint16_t(generator());
  std::vector<double> expected;
  for (int matrix = 0; matrix < kCount; ++matrix)
    for (int lane = 0; lane < 32; ++lane) {
      uint32_t bits = 0;
      for (int i = 0; i < 2; ++i) {
        const int row = kTrans ? lane % 4 * 2 + i : lane / 4;
        const int column = kTrans ? lane / 4 : lane % 4 * 2 + i;
        const int of = matrix * 8 + row;
        bits |= uint32_t(of < kValidRows ? in[size_t(of * 8 + column)] : 0) << 16 * i;
      }
      expected.push_back(bits);
    }
  Buffer<uint16_t> input(in);
  for_each_schedule([&] {
    Buffer<uint32_t> out(kCount * 32);
    expect_ok(launch(copy_and_load<kCount, kTrans, kBytes>, 1, 32, 0, nullptr, input.data(),
                     out.data(), kValidRows));
    expect_close(out, expected, 0, 0, "registers");
    return out.bytes();
  });
}

// Groups of copies come home in order: after wait<1> the older of two groups is there.
__global__ void __launch_bounds__(32)
    two_groups(const float* __restrict__ in, float* __restrict__ out) {
  THRIFTY_SHARED(float, stage, [2][32]);
  const int lane = lane_index();
  cp_async<4>(&stage[0][lane], in + lane);
  cp_async_commit();
  cp_async<4>(&stage[1][lane], in + 32 + lane);
  cp_async_commit();
  cp_async_wait<1>();
  out[lane] = stage[0][lane];
  cp_async_wait<0>();
  out[32 + lane] = stage[1][lane];
}

template <class T>
__global__ void __launch_bounds__(32)
    convert(const float* __restrict__ in, T* __restrict__ out, float* __restrict__ back) {
  const int lane = lane_index();
  const auto v = load_vec_readonly<4>(in + lane * 4);
  Vec<uint32_t, 2> packed{pack2_from_float<T>(v[0], v[1]),
                          pack2(from_float<T>(v[2]), from_float<T>(v[3]))};
  store_vec(reinterpret_cast<uint32_t*>(out) + lane * 2, packed);
  const float2 low = unpack2_to_float<T>(packed[0]), high = unpack2_to_float<T>(packed[1]);
  store_vec(back + lane * 4, Vec<float, 4>{low.x, low.y, high.x, high.y});
}

template <class T>
void check_convert() {
  const auto in = normal_values<float>(128, 9);
  std::vector<double> expected;
  for (const float v : in) expected.push_back(as_double(from_float<T>(v)));
  Buffer<float> input(in);
  for_each_schedule([&] {
    Buffer<T> out(128);
    Buffer<float> back(128);
    expect_ok(launch(convert<T>, 1, 32, 0, nullptr, input.data(), out.data(), back.data()));
    expect_close(out, expected, 0, 0, "rounded");
    expect_close(back, expected, 0, 0, "widened");
    return out.bytes();
  });
}

}  // namespace

TEST(mma_bf16) {
  for (unsigned seed = 0; seed < 4; ++seed) check_mma<bf16>(seed * 10);
}
TEST(mma_fp16) {
  for (unsigned seed = 0; seed < 4; ++seed) check_mma<fp16>(seed * 10);
}
TEST(ldmatrix_rows) {
  check_ldmatrix<1, false, 4>();
  check_ldmatrix<2, false, 8>();
  check_ldmatrix<4, false, 16>();
}
TEST(ldmatrix_transposed) {
  check_ldmatrix<1, true, 16>();
  check_ldmatrix<2, true, 4>();
  check_ldmatrix<4, true, 8>();
}
TEST(cp_async_groups) {
  const auto in = normal_values<float>(64, 4);
  Buffer<float> input(in);
  for_each_schedule([&] {
    Buffer<float> out(64);
    expect_ok(launch(two_groups, 1, 32, 0, nullptr, input.data(), out.data()));
    expect_close(out, doubles(in), 0, 0, "out");
    return out.bytes();
  });
}
TEST(convert_bf16) { check_convert<bf16>(); }
TEST(convert_fp16) { check_convert<fp16>(); }
