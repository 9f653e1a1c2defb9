// The queries of each node, sorted by window: q_rows from q_window, one block a node and head.
#pragma once

#include "attention/core_table.h"

namespace thrifty::attention::cuda {

LaunchStatus sort_queries(const CoreArgs& args, const Table& table, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
