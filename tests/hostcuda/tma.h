// Host form of core/cuda/tma.cuh: poison at issue, the tile arrives when somebody waits.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {
void tma_load(void* shared_tile, const TensorMap& map, Mbarrier* barrier, const int (&at)[3],
              const Site& site);
}  // namespace host

THRIFTY_HOST_OP void tma_load_2d(void* shared_tile, const TensorMap* map, Mbarrier* barrier, int x,
                                 int y, host::Site site = host::Site::current()) {
  if (map->rank != 2) host::fail(site, "tma_load_2d: the tensor map has three dimensions");
  host::tma_load(shared_tile, *map, barrier, {x, y, 0}, site);
}
THRIFTY_HOST_OP void tma_load_3d(void* shared_tile, const TensorMap* map, Mbarrier* barrier, int x,
                                 int y, int z, host::Site site = host::Site::current()) {
  if (map->rank != 3) host::fail(site, "tma_load_3d: the tensor map has two dimensions");
  host::tma_load(shared_tile, *map, barrier, {x, y, z}, site);
}
THRIFTY_HOST_OP void tma_prefetch_map(const TensorMap*) {}

}  // namespace thrifty::cuda
