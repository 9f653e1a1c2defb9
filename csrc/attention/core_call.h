// A call's work and scratch, laid out alike for both passes.
#pragma once

#include "attention/core_sort.h"
#include "attention/hyper_cuda.h"
#include "attention/list_cuda.h"

namespace thrifty::attention::cuda {

// Bytes that one access to any row may take.
int access_bytes(const void* data, int64_t size, std::initializer_list<int64_t> elements);
CoreRows core_rows(const Problem& problem, const Heads& heads, int64_t width);

class CoreCall {
 public:
  CoreCall(const HyperCall& call, int q_rows, int columns, ScratchArena& arena);

  // Table, sorted queries, lists.
  LaunchStatus prepare(cudaStream_t stream) const;
  const CoreArgs& args() const { return args_; }
  const Table& table() const { return table_; }

 private:
  const HyperCall& call_;
  int q_rows_, columns_;
  Table table_;
  DeviceTable device_;
  CoreArgs args_;
};

}  // namespace thrifty::attention::cuda
