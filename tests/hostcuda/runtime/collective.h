// A warp operation as a function over the lanes that take part.
#pragma once

#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

// Lets the last lane to arrive run combine(in, out) for the whole warp, where in(lane) is null for
// a lane outside the mask and out(lane) is the result of a lane inside; returns the caller's
// result.
template <class Out, class In, class Combine>
Out warp_operation(const WarpOp& op, uint32_t mask, const In& input, const Site& site,
                   Combine&& combine) {
  struct Slot {
    const In* in;
    Out out;
  } mine{&input, {}};
  if (LaneSlots slots = warp_arrive(op, mask, &mine, site)) {
    combine(
        [&](int lane) -> const In* {
          return mask >> lane & 1 ? static_cast<Slot*>(slots[lane])->in : nullptr;
        },
        [&](int lane) -> Out& { return static_cast<Slot*>(slots[lane])->out; });
    warp_release();
  }
  return mine.out;
}

// The same with one result at a time: out(lane) = combine(lane, in).
template <class Out, class In, class Combine>
Out warp_collective(const WarpOp& op, uint32_t mask, const In& input, const Site& site,
                    Combine&& combine) {
  return warp_operation<Out>(op, mask, input, site, [&](auto in, auto out) {
    for (int lane = 0; lane < 32; ++lane)
      if (mask >> lane & 1) out(lane) = combine(lane, in);
  });
}

}  // namespace thrifty::cuda::host
