// ldmatrix and mma.sync for a whole warp (PTX ISA, "Matrix Fragments for mma.m16n8k16").
//
// Products of 16-bit values are exact in float; their sum is kept in double and rounded once, where
// the tensor core truncates its partial sums: results differ from a device's in the last bits.
#include <array>
#include <cstring>
#include <vector>

#include "core/cuda/ldmatrix.cuh"
#include "core/cuda/mma.cuh"
#include "hostcuda/runtime/collective.h"
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/values.h"

namespace thrifty::cuda::host {

namespace {
constexpr uint32_t kAll = 0xffffffffu;
}

float fp16_value(uint16_t bits) {
  static const std::vector<float> table = [] {
    std::vector<float> values(1 << 16);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint16_t raw = uint16_t(i);
      fp16 value;
      std::memcpy(static_cast<void*>(&value), &raw, 2);
      values[i] = to_float(value);
    }
    return values;
  }();
  return table[bits];
}

void ldmatrix(uint32_t* registers, int count, bool transposed, const void* row, const Site& site) {
  const race::Quiet quiet;
  const Thread& thread = self("ldmatrix");
  if (thread.lane() < 8 * count) {
    require_shared("ldmatrix", row, 16, 16, site);
    race::read(row, 16, thread.index, __builtin_return_address(0));
  }
  using Registers = std::array<uint32_t, 4>;
  const Registers result =
      warp_operation<Registers>({"ldmatrix", true}, kAll, row, site, [&](auto in, auto out) {
        for (int matrix = 0; matrix < count; ++matrix) {
          uint16_t element[8][8];
          for (int i = 0; i < 8; ++i) std::memcpy(element[i], *in(matrix * 8 + i), 16);
          for (int lane = 0; lane < 32; ++lane) {
            const int major = lane / 4, minor = lane % 4 * 2;
            const uint32_t low = transposed ? element[minor][major] : element[major][minor];
            const uint32_t high =
                transposed ? element[minor + 1][major] : element[major][minor + 1];
            out(lane)[size_t(matrix)] = low | high << 16;
          }
        }
      });
  std::copy(result.begin(), result.begin() + count, registers);
}

void mma_m16n8k16(bool is_fp16, float* d, const uint32_t* a, uint32_t b0, uint32_t b1,
                  const Site& site) {
  const race::Quiet quiet;
  struct Fragments {
    uint32_t a[4], b[2];
    float d[4];
  };
  struct Result {
    float d[4];
  };
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  const Result result =
      warp_operation<Result>({"mma.m16n8k16", true}, kAll, mine, site, [&](auto in, auto out) {
        double A[16][16], B[8][16];  // B by columns
        const auto put = [&](double* pair, uint32_t bits) {
          pair[0] = half_value(is_fp16, uint16_t(bits));
          pair[1] = half_value(is_fp16, uint16_t(bits >> 16));
        };
        for (int lane = 0; lane < 32; ++lane) {
          const int group = lane / 4, k = lane % 4 * 2;
          for (int i = 0; i < 4; ++i) put(&A[group + i % 2 * 8][k + i / 2 * 8], in(lane)->a[i]);
          for (int i = 0; i < 2; ++i) put(&B[group][k + i * 8], in(lane)->b[i]);
        }
        for (int lane = 0; lane < 32; ++lane)
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = 0;
            for (int k = 0; k < 16; ++k) sum += A[row][k] * B[column][k];
            out(lane).d[i] = float(double(in(lane)->d[i]) + sum);
          }
      });
  std::copy(result.d, result.d + 4, d);
}

}  // namespace thrifty::cuda::host
