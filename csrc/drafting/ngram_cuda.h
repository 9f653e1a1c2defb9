// The n-gram table in the device's memory: the region of ngram_store.h, header and all, copied
// there as it is. Updates and drafts follow the CPU's rules with the same random numbers.
//
// Nothing here synchronises, allocates or reads device memory, so calls may be captured in a CUDA
// graph. A bucket belongs to one warp, which takes the rows in order: no locks, and results do not
// depend on the schedule. Ids, lengths and templates are trusted by no kernel.
#pragma once

#include <driver_types.h>

#include "core/row_measure.h"
#include "drafting/ngram_table.h"

namespace thrifty::drafting::cuda {

using thrifty::cuda::LaunchStatus;

// What the host knows of a table on the device: its options are those of the header.
struct DeviceTable {
  char* region = nullptr;
  int64_t capacity = 0, k = 0, n_min = 0, n_max = 0, count_cap = 0;
  uint64_t seed = 0;
};

// Pointers of the arguments are to the device. `scratch`: on 256.
int64_t ngram_update_scratch(const DeviceTable& table, int64_t rows);
LaunchStatus ngram_update(const DeviceTable& table, const Contexts& contexts,
                          const Followers& followers, void* scratch, cudaStream_t stream);

// child_begin and child_count: [nodes], as in DraftTemplate; nodes <= kMaxNodes.
LaunchStatus ngram_draft(const DeviceTable& table, const Contexts& contexts,
                         const int32_t* child_begin, const int32_t* child_count, int64_t nodes,
                         const DraftSettings& settings, const DraftArrays& out,
                         cudaStream_t stream);

}  // namespace thrifty::drafting::cuda
