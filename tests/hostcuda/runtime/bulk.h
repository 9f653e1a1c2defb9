// State of the running block's mbarriers and bulk copies.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/cuda/mbarrier.cuh"
#include "core/cuda/tensor_map.h"
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

struct MbarrierState {
  int number = 0;  // in the order of initialisation
  uint32_t count = 0, pending = 0, phase = 0;
  int64_t bytes = 0;  // expected and not yet come; negative while copies outrun their expectation
  std::vector<int> waiting;
  race::Knowledge arriving, done;  // what this phase's and the finished phases' arrivals knew
};

struct BulkCopy {
  Mbarrier* barrier;
  TensorMap map;
  unsigned char* tile;
  int at[3];
  int unit;  // of the race checker
};

struct Bulk {
  std::map<const void*, MbarrierState> mbarriers;
  std::vector<BulkCopy> in_flight;
};
Bulk& bulk();

MbarrierState& mbarrier_at(const char* op, const Mbarrier* barrier, const Site& site,
                           const void* code);
// Takes the oldest copy that reports to the barrier to its end; false where there is none.
bool bulk_land_one(Mbarrier* barrier);
void mbarrier_wake(MbarrierState& state);
std::string mbarrier_text(const void* barrier);

void bulk_begin_block();
void bulk_end_block();  // records a failure if a copy was never waited for

}  // namespace thrifty::cuda::host
