// A ring of stages in shared memory that some warps fill and others read (sm_90).
//
// full[s] says that stage s has come, empty[s] that all its readers are done with it.
#pragma once

#include "core/cuda/mbarrier.cuh"

namespace thrifty::cuda {

template <int kStages>
struct Ring {
  Mbarrier full[kStages], empty[kStages];
};

// Where a walk around the ring stands; it fills a stage with parity 1 - phase, reads with phase.
template <int kStages>
struct RingPlace {
  int stage = 0, phase = 0;
  THRIFTY_DEVICE void next() {
    stage = stage + 1 == kStages ? 0 : stage + 1;
    phase ^= int(stage == 0);
  }
};

}  // namespace thrifty::cuda
