// Calls of the runtime into the race checker; they vanish in builds without it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace thrifty::cuda::host::race {

#if defined(THRIFTY_HOSTCUDA_RACE)
#error "not yet"
#else
inline void ignore(const void*, size_t) {}
inline void begin_launch() {}
inline void end_launch() {}
inline void begin_block(int, uint64_t) {}
inline void enter(int) {}
inline void leave() {}
inline void shared_arena(const void*, size_t) {}
inline void shared_reset() {}
inline void shared_declared(size_t, size_t) {}
inline void join_lanes(int, uint32_t) {}
inline void barrier_arrive(int, int) {}
inline void barrier_open_block() {}
inline void barrier_open(int) {}
inline void barrier_leave(int, int) {}
inline void async_begin(void*, size_t, int) {}
inline void async_end(void*, size_t, int) {}
#endif

}  // namespace thrifty::cuda::host::race
