// Host form of core/cuda/warp.cuh. Values travel as 64 bits, so that the work is done outside of
// the instrumented kernel.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {

enum class Shuffle { index, exclusive_or, down, up };
// The value read from a lane outside the mask is poison.
uint64_t shuffle(Shuffle form, uint64_t value, int argument, uint32_t mask, int width,
                 const Site& site);
uint32_t vote(const char* name, bool predicate, uint32_t mask, const Site& site);
uint32_t match(uint64_t value, uint32_t mask, const Site& site);
void syncwarp(uint32_t mask, const Site& site);

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8, "a warp exchanges values of up to 8 bytes");
  uint64_t bits = 0;
  std::memcpy(&bits, static_cast<const void*>(&value), sizeof(T));
  return bits;
}

template <class T>
T shuffle_value(Shuffle form, T value, int argument, uint32_t mask, int width, const Site& site) {
  const uint64_t bits = shuffle(form, to_bits(value), argument, mask, width, site);
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

}  // namespace host

template <class T>
T shfl(T value, int source, uint32_t mask = 0xffffffffu, int width = 32,
       host::Site site = host::Site::current()) {
  return host::shuffle_value(host::Shuffle::index, value, source, mask, width, site);
}
template <class T>
T shfl_xor(T value, int bits, uint32_t mask = 0xffffffffu, int width = 32,
           host::Site site = host::Site::current()) {
  return host::shuffle_value(host::Shuffle::exclusive_or, value, bits, mask, width, site);
}
template <class T>
T shfl_down(T value, int delta, uint32_t mask = 0xffffffffu, int width = 32,
            host::Site site = host::Site::current()) {
  return host::shuffle_value(host::Shuffle::down, value, delta, mask, width, site);
}
template <class T>
T shfl_up(T value, int delta, uint32_t mask = 0xffffffffu, int width = 32,
          host::Site site = host::Site::current()) {
  return host::shuffle_value(host::Shuffle::up, value, delta, mask, width, site);
}

inline uint32_t warp_ballot(bool predicate, uint32_t mask = 0xffffffffu,
                            host::Site site = host::Site::current()) {
  return host::vote("warp_ballot", predicate, mask, site);
}
inline bool warp_any(bool predicate, uint32_t mask = 0xffffffffu,
                     host::Site site = host::Site::current()) {
  return host::vote("warp_any", predicate, mask, site) != 0;
}
inline bool warp_all(bool predicate, uint32_t mask = 0xffffffffu,
                     host::Site site = host::Site::current()) {
  return host::vote("warp_all", predicate, mask, site) == mask;
}
template <class T>
uint32_t warp_match(T value, uint32_t mask = 0xffffffffu, host::Site site = host::Site::current()) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "warp_match: 32 or 64 bits");
  return host::match(host::to_bits(value), mask, site);
}

inline void syncwarp(uint32_t mask = 0xffffffffu, host::Site site = host::Site::current()) {
  host::syncwarp(mask, site);
}

}  // namespace thrifty::cuda
