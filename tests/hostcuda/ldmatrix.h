// Host form of core/cuda/ldmatrix.cuh.
#pragma once

#include <array>

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

template <int kCount, bool kTrans = false>
THRIFTY_HOST_OP void ldmatrix(uint32_t (&r)[kCount], const void* row,
                              host::Site site = host::Site::current()) {
  static_assert(kCount == 1 || kCount == 2 || kCount == 4, "ldmatrix: 1, 2 or 4 matrices");
  const bool named = host::lane() < 8 * kCount;
  if (named) {
    host::require_shared("ldmatrix", row, 16, 16, site);
    host::note_read(row, 16);
  }
  using Registers = std::array<uint32_t, kCount>;
  const host::WarpOp op{"ldmatrix", true, false};
  const Registers result =
      host::warp_operation<Registers>(op, 0xffffffffu, row, site, [](auto in, auto out) {
        for (int matrix = 0; matrix < kCount; ++matrix) {
          uint16_t element[8][8];
          for (int i = 0; i < 8; ++i) host::raw_copy(element[i], *in(matrix * 8 + i), 16);
          for (int lane = 0; lane < 32; ++lane) {
            const int major = lane / 4, minor = lane % 4 * 2;
            const uint32_t low = kTrans ? element[minor][major] : element[major][minor];
            const uint32_t high = kTrans ? element[minor + 1][major] : element[major][minor + 1];
            out(lane)[size_t(matrix)] = low | high << 16;
          }
        }
      });
  for (int i = 0; i < kCount; ++i) r[i] = result[size_t(i)];
}

}  // namespace thrifty::cuda
