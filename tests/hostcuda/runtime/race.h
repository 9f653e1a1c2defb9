// The race checker: every access of a kernel against a happens-before order (vector clocks).
//
// g++ -fsanitize=thread reports each load and store of the kernel to race_hooks.cpp instead of to
// its own runtime. Two accesses to one byte, one of them a plain store, must be ordered by a barrier
// (syncthreads, syncwarp, named, mbarrier), or by atomics with fences; an order that a schedule happens
// to produce does not count. Also caught: reads of shared memory that nobody wrote or declared, and
// any access to bytes that an asynchronous copy has in flight. The method is that of FastTrack
// (Flanagan and Freund, PLDI 2009) with blocks and warps as shortcuts.
//
// In builds without the checker these calls vanish.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace thrifty::cuda::host::race {

#if defined(THRIFTY_HOSTCUDA_RACE)

// Accesses made while a Quiet lives are the runtime's own.
class Quiet {
 public:
  Quiet();
  ~Quiet();

 private:
  bool before_;
};

void ignore(const void* memory, size_t bytes);  // not the kernel's memory: stacks, built-in variables
void begin_launch();
void begin_block(int threads);
void kernel_code_starts();
void kernel_code_ends();

void shared_arena(const void* arena, size_t bytes);
void shared_reset();
void shared_declared(size_t offset, size_t bytes);

void join_lanes(int warp, uint32_t mask);
void join_block();
void barrier_arrive(int id, int thread);
void barrier_open(int id, const std::vector<int>& waiting);

// A read by the runtime on behalf of an agent.
void read(const void* from, size_t bytes, int agent, const void* code);
// An asynchronous copy by `thread` into shared memory, from issue to arrival.
void async_begin(const void* to, size_t bytes, int thread, const void* code);
void async_end(const void* to, size_t bytes, int thread);

#else

struct Quiet {
  Quiet() {}
  ~Quiet() {}
};
inline void ignore(const void*, size_t) {}
inline void begin_launch() {}
inline void begin_block(int) {}
inline void kernel_code_starts() {}
inline void kernel_code_ends() {}
inline void shared_arena(const void*, size_t) {}
inline void shared_reset() {}
inline void shared_declared(size_t, size_t) {}
inline void join_lanes(int, uint32_t) {}
inline void join_block() {}
inline void barrier_arrive(int, int) {}
inline void barrier_open(int, const std::vector<int>&) {}
inline void read(const void*, size_t, int, const void*) {}
inline void async_begin(const void*, size_t, int, const void*) {}
inline void async_end(const void*, size_t, int) {}

#endif

}  // namespace thrifty::cuda::host::race
