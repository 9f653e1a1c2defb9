// Accesses that the instrumentation of the kernel does not see; race.cpp has the checked forms.
#include <cstring>

#include "hostcuda/runtime.h"

namespace thrifty::cuda::host {

void raw_copy(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

#if !defined(THRIFTY_HOSTCUDA_RACE)
void note_atomic(const void*, size_t, bool) {}
void note_fence() {}
void note_async_fence() {}
#endif

}  // namespace thrifty::cuda::host
