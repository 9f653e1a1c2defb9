// Shuffles, votes and matches, lane by lane.
#include "core/cuda/warp.cuh"
#include "hostcuda/runtime/collective.h"

namespace thrifty::cuda::host {

namespace {

constexpr uint32_t kAll = 0xffffffffu;
constexpr const char* kShuffleNames[] = {"shfl", "shfl_xor", "shfl_down", "shfl_up"};

// The lane that `lane` reads from; itself where its segment has no such lane.
int source_lane(Shuffle form, int lane, int argument, int width) {
  const int first = lane / width * width, within = lane - first;
  switch (form) {
    case Shuffle::index: return first + (argument & (width - 1));
    case Shuffle::exclusive_or: return (lane ^ argument) >= first + width ? lane : lane ^ argument;
    case Shuffle::down: return within + argument < width ? lane + argument : lane;
    case Shuffle::up: return within >= argument ? lane - argument : lane;
  }
  return lane;
}

}  // namespace

uint64_t shuffle(Shuffle form, uint64_t value, int argument, uint32_t mask, int width,
                 const Site& site) {
  const char* const name = kShuffleNames[int(form)];
  if (width < 1 || width > 32 || (width & (width - 1)) != 0)
    fail(site, std::string(name) + ": the width is not a power of two up to 32");
  struct In {
    uint64_t value;
    int argument;
  };
  return warp_collective<uint64_t>({name}, mask, In{value, argument}, site, [&](int lane, auto in) {
    if (const In* from = in(source_lane(form, lane, in(lane)->argument, width))) return from->value;
    uint64_t undefined;
    fill_poison(&undefined, sizeof(undefined));
    return undefined;
  });
}

uint32_t vote(const char* name, bool predicate, uint32_t mask, const Site& site) {
  return warp_operation<uint32_t>({name}, mask, predicate, site, [&](auto in, auto out) {
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane)
      if (in(lane) && *in(lane)) bits |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane)
      if (in(lane)) out(lane) = bits;
  });
}

uint32_t match(uint64_t value, uint32_t mask, const Site& site) {
  return warp_collective<uint32_t>({"warp_match"}, mask, value, site, [](int lane, auto in) {
    uint32_t bits = 0;
    for (int other = 0; other < 32; ++other)
      if (in(other) && *in(other) == *in(lane)) bits |= 1u << other;
    return bits;
  });
}

void syncwarp(uint32_t mask, const Site& site) {
  warp_operation<bool>({"syncwarp", false, true}, mask, true, site, [](auto, auto) {});
}

void warp_converged(const char* op, const Site& site) {
  warp_operation<bool>({op, true}, kAll, true, site, [](auto, auto) {});
}

}  // namespace thrifty::cuda::host
