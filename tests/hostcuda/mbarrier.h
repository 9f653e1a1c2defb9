// Host form of core/cuda/mbarrier.cuh. The state is the runtime's; the 8 bytes only give it a
// place.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

THRIFTY_HOST_OP void mbarrier_init(Mbarrier* barrier, int arrivals,
                                   host::Site site = host::Site::current()) {
  host::mbarrier_init(barrier, arrivals, site);
}
THRIFTY_HOST_OP void fence_mbarrier_init() {}
THRIFTY_HOST_OP void mbarrier_arrive(Mbarrier* barrier, host::Site site = host::Site::current()) {
  host::mbarrier_arrive(barrier, 0, site);
}
THRIFTY_HOST_OP void mbarrier_arrive_expect(Mbarrier* barrier, int bytes,
                                            host::Site site = host::Site::current()) {
  host::mbarrier_arrive(barrier, bytes, site);
}
THRIFTY_HOST_OP void mbarrier_wait(Mbarrier* barrier, int parity,
                                   host::Site site = host::Site::current()) {
  host::mbarrier_wait(barrier, parity, site);
}
THRIFTY_HOST_OP void fence_async_shared() { host::note_async_fence(); }

}  // namespace thrifty::cuda
