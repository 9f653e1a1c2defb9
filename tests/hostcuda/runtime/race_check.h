// One access as the checker sees it, and the entry that hooks and runtime share.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thrifty::cuda::host::race {

enum class Kind { read, write, atomic_update, atomic_load };

struct Access {
  uintptr_t address;
  size_t bytes;
  Kind kind;
  int agent;
  const void* code;  // where in the kernel
};

struct Range {
  uintptr_t begin, end;
  bool holds(uintptr_t address) const { return address - begin < end - begin; }
};

// The stacks of the threads, which make up most accesses and are of no interest.
extern Range stacks;
// True while code of the kernel runs, as opposed to the runtime or the test.
extern bool active;

void check(const Access& access);
// An access of the running thread, seen by the compiler's instrumentation.
void check_instrumented(const void* address, size_t bytes, Kind kind, const void* code);

}  // namespace thrifty::cuda::host::race
