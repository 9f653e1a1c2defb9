// Host form of core/cuda/warp.cuh. A value read from a lane outside the mask is poison.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {

// The lane each form of shuffle reads from; the caller itself where its segment has no such lane.
inline int xor_source(int lane, int bits, int width) {
  const int source = lane ^ bits;
  return source / width > lane / width ? lane : source;
}
inline int down_source(int lane, int delta, int width) {
  return lane % width + delta < width ? lane + delta : lane;
}
inline int up_source(int lane, int delta, int width) {
  return lane % width >= delta ? lane - delta : lane;
}

template <class T, class Source>
T shuffle(const char* name, uint32_t mask, T value, int argument, int width, const Site& site,
          Source&& source) {
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail(site, std::string(name) + ": the width is not a power of two up to 32");
  struct In {
    T value;
    int argument;
  };
  return warp_collective<T>(WarpOp{name}, mask, In{value, argument}, site, [&](int lane, auto in) {
    const In* from = in(source(lane, in(lane)->argument, width));
    if (from) return from->value;
    T undefined;
    fill_poison(&undefined, sizeof(undefined));
    return undefined;
  });
}

}  // namespace host

template <class T>
T shfl(T value, int source, uint32_t mask = 0xffffffffu, int width = 32,
       host::Site site = host::Site::current()) {
  return host::shuffle("shfl", mask, value, source, width, site, [](int lane, int from, int w) {
    return (lane & ~(w - 1)) | (from & (w - 1));
  });
}
template <class T>
T shfl_xor(T value, int bits, uint32_t mask = 0xffffffffu, int width = 32,
           host::Site site = host::Site::current()) {
  return host::shuffle("shfl_xor", mask, value, bits, width, site, host::xor_source);
}
template <class T>
T shfl_down(T value, int delta, uint32_t mask = 0xffffffffu, int width = 32,
            host::Site site = host::Site::current()) {
  return host::shuffle("shfl_down", mask, value, delta, width, site, host::down_source);
}
template <class T>
T shfl_up(T value, int delta, uint32_t mask = 0xffffffffu, int width = 32,
          host::Site site = host::Site::current()) {
  return host::shuffle("shfl_up", mask, value, delta, width, site, host::up_source);
}

namespace host {
inline uint32_t vote(const char* name, bool predicate, uint32_t mask, const Site& site) {
  return warp_collective<uint32_t>(WarpOp{name}, mask, predicate, site, [](int, auto in) {
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (in(lane) && *in(lane)) bits |= 1u << lane;
    return bits;
  });
}
}  // namespace host

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
  return host::warp_collective<uint32_t>(
      host::WarpOp{"warp_match"}, mask, value, site, [](int lane, auto in) {
        uint32_t bits = 0;
        for (int other = 0; other < 32; ++other)
          if (in(other) && std::memcmp(in(other), in(lane), sizeof(T)) == 0) bits |= 1u << other;
        return bits;
      });
}

inline void syncwarp(uint32_t mask = 0xffffffffu, host::Site site = host::Site::current()) {
  const host::WarpOp op{"syncwarp", false, true};
  host::warp_collective<bool>(op, mask, true, site, [](int, auto) { return true; });
}

}  // namespace thrifty::cuda
