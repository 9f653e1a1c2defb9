// Host form of core/cuda/block.cuh.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

inline void syncthreads(host::Site site = host::Site::current()) {
  host::block_barrier(host::Reduction::none, false, site);
}
inline bool block_all(bool predicate, host::Site site = host::Site::current()) {
  return host::block_barrier(host::Reduction::logical_and, predicate, site) != 0;
}
inline bool block_any(bool predicate, host::Site site = host::Site::current()) {
  return host::block_barrier(host::Reduction::logical_or, predicate, site) != 0;
}
inline int block_count(bool predicate, host::Site site = host::Site::current()) {
  return host::block_barrier(host::Reduction::count, predicate, site);
}
inline void named_barrier_sync(int id, int threads, host::Site site = host::Site::current()) {
  host::named_barrier(id, threads, true, site);
}
inline void named_barrier_arrive(int id, int threads, host::Site site = host::Site::current()) {
  host::named_barrier(id, threads, false, site);
}

}  // namespace thrifty::cuda
