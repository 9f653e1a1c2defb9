// The lists of all nodes, made once a call: bucket means, kept keys and samples, or the entries
// that hyper_core is given (list.h has the definition).
#pragma once

#include "attention/core_table.h"

namespace thrifty::attention::cuda {

// Takes its arrays from the arena.
ListRows plan_list(const Hyper& hyper, const Table& table, ScratchArena& arena);
LaunchStatus make_lists(const Hyper& hyper, const CoreArgs& args, const Table& table,
                        cudaStream_t stream);

}  // namespace thrifty::attention::cuda
