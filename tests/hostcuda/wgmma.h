// Host form of core/cuda/wgmma.cuh: each warp computes its 16 rows when a wait covers the batch;
// until then the accumulators are poison.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {

struct WgmmaShape {
  int n;
  bool fp16;
  Major a, b;
  bool a_in_registers;
  bool operator==(const WgmmaShape&) const = default;
};
struct WgmmaInput {
  float* d;
  uint64_t a, b;
  uint32_t a_registers[4];
  bool accumulate;
};
void wgmma_issue(const WgmmaShape& shape, const WgmmaInput& input, const Site& site);
void wgmma_fence(const Site& site);
void wgmma_commit(const Site& site);
void wgmma_wait(int pending, const Site& site);
void warp_converged(const char* op, const Site& site);

}  // namespace host

template <Swizzle kSwizzle, Major kMajor = Major::k>
uint64_t wgmma_operand(const void* tile, int panel_bytes, int k = 0,
                       host::Site site = host::Site::current()) {
  const uint32_t address = host::shared_address("wgmma operand", tile, site);
  return wgmma_descriptor(address, kSwizzle, kMajor, panel_bytes, k);
}

template <class T, int kN, Major kMajorA = Major::k, Major kMajorB = Major::k>
THRIFTY_HOST_OP void wgmma(float (&d)[kN / 2], uint64_t a, uint64_t b, bool accumulate = true,
                           host::Site site = host::Site::current()) {
  static_assert(kN % 8 == 0 && kN <= 256, "wgmma: kN is a multiple of 8 up to 256");
  host::wgmma_issue({kN, std::is_same_v<T, fp16>, kMajorA, kMajorB, false},
                    {d, a, b, {}, accumulate}, site);
}
template <class T, int kN, Major kMajorB = Major::k>
THRIFTY_HOST_OP void wgmma(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                           bool accumulate = true, host::Site site = host::Site::current()) {
  static_assert(kN % 8 == 0 && kN <= 256, "wgmma: kN is a multiple of 8 up to 256");
  host::wgmma_issue({kN, std::is_same_v<T, fp16>, Major::k, kMajorB, true},
                    {d, 0, b, {a[0], a[1], a[2], a[3]}, accumulate}, site);
}

// The caller's place cannot follow a parameter pack as a default argument; what these report is the
// place of the wgmma they belong to.
template <int... kSizes>
void wgmma_fence([[maybe_unused]] float (&... d)[kSizes]) {
  host::wgmma_fence(host::Site::current());
}
inline void wgmma_commit(host::Site site = host::Site::current()) { host::wgmma_commit(site); }
template <int kPending, int... kSizes>
void wgmma_wait([[maybe_unused]] float (&... d)[kSizes]) {
  host::wgmma_wait(kPending, host::Site::current());
}

template <int kRegisters>
void setmaxnreg_decrease(host::Site site = host::Site::current()) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 240);
  host::warp_converged("setmaxnreg", site);
}
template <int kRegisters>
void setmaxnreg_increase(host::Site site = host::Site::current()) {
  static_assert(kRegisters % 8 == 0 && kRegisters >= 24 && kRegisters <= 240);
  host::warp_converged("setmaxnreg", site);
}

}  // namespace thrifty::cuda
