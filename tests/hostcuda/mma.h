// Host form of core/cuda/mma.cuh.
//
// Products of 16-bit values are exact in float; their sum is kept in double and rounded once, where
// the tensor core truncates its partial sums: results differ from a device's in the last bits.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                  host::Site site = host::Site::current()) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, fp16>, "mma: bf16 or fp16");
  struct Fragments {
    uint32_t a[4], b[2];
    float d[4];
  };
  struct Result {
    float d[4];
  };
  const Fragments mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  const host::WarpOp op{"mma.m16n8k16", true, false};
  const Result result =
      host::warp_operation<Result>(op, 0xffffffffu, mine, site, [](auto in, auto out) {
        float A[16][16], B[8][16];  // B by columns
        for (int lane = 0; lane < 32; ++lane) {
          const int group = lane / 4, k = lane % 4 * 2;
          for (int i = 0; i < 4; ++i) {
            const float2 pair = unpack2_to_float<T>(in(lane)->a[i]);
            const int row = group + i % 2 * 8, column = k + i / 2 * 8;
            A[row][column] = pair.x;
            A[row][column + 1] = pair.y;
          }
          for (int i = 0; i < 2; ++i) {
            const float2 pair = unpack2_to_float<T>(in(lane)->b[i]);
            B[group][k + i * 8] = pair.x;
            B[group][k + i * 8 + 1] = pair.y;
          }
        }
        for (int lane = 0; lane < 32; ++lane)
          for (int i = 0; i < 4; ++i) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = 0;
            for (int k = 0; k < 16; ++k) sum += double(A[row][k]) * double(B[column][k]);
            out(lane).d[i] = float(double(in(lane)->d[i]) + sum);
          }
      });
  for (int i = 0; i < 4; ++i) d[i] = result.d[i];
}

}  // namespace thrifty::cuda
