// The race checker: every access of a kernel against a happens-before order (vector clocks).
//
// g++ -fsanitize=thread reports each load and store of the kernel to race_hooks.cpp instead of to
// its own runtime. Two accesses to one byte, one of them a plain store, must be ordered by a
// barrier (syncthreads, syncwarp, named, mbarrier), or by atomics with fences; an order that a
// schedule happens to produce does not count. Also caught: reads of shared memory that nobody wrote
// or declared, and any access to bytes that an asynchronous copy has in flight. The method is that
// of FastTrack (Flanagan and Freund, PLDI 2009) with blocks and warps as shortcuts.
//
// In builds without the checker these calls vanish.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace thrifty::cuda::host::race {

// What an agent (a thread, the copies of an mbarrier, the wgmma of a warp) knew when it told.
struct Knowledge {
#if defined(THRIFTY_HOSTCUDA_RACE)
  std::vector<uint32_t> row;
#endif
};

#if defined(THRIFTY_HOSTCUDA_RACE)

// Accesses made while a Quiet lives are the runtime's own.
class Quiet {
 public:
  Quiet();
  ~Quiet();

 private:
  bool before_;
};

void ignore(const void* memory, size_t bytes);  // the built-in variables
void ignore_stacks(const void* memory, size_t bytes);
void begin_launch();
void begin_block(int threads);
void kernel_code_starts();
void kernel_code_ends();

void shared_arena(const void* arena, size_t bytes);
void shared_reset();
void shared_declared(size_t offset, size_t bytes);

void join_lanes(int warp, uint32_t mask);
void join_block();

int unit_of_warp(int warp);
int unit_of_mbarrier(int number);
void tell(int agent, Knowledge& knowledge);
void learn(int agent, const Knowledge& knowledge);
void merge(Knowledge& into, const Knowledge& from);
void hand_over(int from_agent, int to_agent);

// Accesses by the runtime on behalf of an agent.
void read(const void* from, size_t bytes, int agent, const void* code);
void write(const void* to, size_t bytes, int agent, const void* code);
// A read by the asynchronous proxy: ordinary writes must have been fenced by their writer.
void async_read(const void* from, size_t bytes, int agent, const void* code);
// An asynchronous copy into shared memory, from issue to arrival.
void async_begin(const void* to, size_t bytes, int agent, const void* code);
void async_end(const void* to, size_t bytes, int agent);

#else

struct Quiet {
  Quiet() {}
  ~Quiet() {}
};
inline void ignore(const void*, size_t) {}
inline void ignore_stacks(const void*, size_t) {}
inline void begin_launch() {}
inline void begin_block(int) {}
inline void kernel_code_starts() {}
inline void kernel_code_ends() {}
inline void shared_arena(const void*, size_t) {}
inline void shared_reset() {}
inline void shared_declared(size_t, size_t) {}
inline void join_lanes(int, uint32_t) {}
inline void join_block() {}
inline int unit_of_warp(int) { return 0; }
inline int unit_of_mbarrier(int) { return 0; }
inline void tell(int, Knowledge&) {}
inline void learn(int, const Knowledge&) {}
inline void merge(Knowledge&, const Knowledge&) {}
inline void hand_over(int, int) {}
inline void write(const void*, size_t, int, const void*) {}
inline void async_read(const void*, size_t, int, const void*) {}
inline void read(const void*, size_t, int, const void*) {}
inline void async_begin(const void*, size_t, int, const void*) {}
inline void async_end(const void*, size_t, int) {}

#endif

}  // namespace thrifty::cuda::host::race
