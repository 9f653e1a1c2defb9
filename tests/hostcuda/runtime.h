// What the host forms of the device headers ask of the runtime.
//
// Every operation is made of four moves: arrive somewhere, wait there, wake others, fail with a
// message. A Site is the place in the kernel's source, taken by a default argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "hostcuda/platform.h"

namespace thrifty::cuda::host {

using Site = std::source_location;

// Ends the launch with a Fault that names kernel, block, thread and site.
[[noreturn]] void fail(const Site& site, const std::string& what);

// A point where the schedule may let another thread run first.
void preempt();
// As preempt, but the caller runs on only once no other thread can: for polling loops.
void give_way();

// Fills with the poison of the options: NaN as bf16, fp16, float and double.
void fill_poison(void* address, size_t bytes);
// Fails unless [address, address + bytes) lies in shared memory of the launch, aligned as told.
void require_shared(const char* op, const void* address, size_t bytes, size_t align,
                    const Site& site);
// Of the operations that the runtime performs itself, which sanitizers do not watch: any memory
// that the kernel may use, aligned to its size.
void require_access(const char* op, const void* address, size_t bytes, const Site& site);
void require_aligned(const char* op, const void* address, size_t align, const Site& site);

// Accesses that the compiler's instrumentation does not see are told to the race checker; a raw
// copy is one that it shall not see.
void note_atomic(const void* address, size_t bytes, bool writes);
void note_fence();
void note_async_fence();
void raw_copy(void* to, const void* from, size_t bytes);

enum class Reduction { none, logical_and, logical_or, count };
int block_barrier(Reduction reduction, bool predicate, const Site& site);
void named_barrier(int id, int threads, bool waits, const Site& site);

void async_copy(void* destination, const void* source, int bytes, bool valid, const Site& site);
void async_commit();
void async_wait(int pending, const Site& site);

void mbarrier_init(uint64_t* barrier, int arrivals, const Site& site);
void mbarrier_arrive(uint64_t* barrier, int expected_bytes, const Site& site);
void mbarrier_wait(uint64_t* barrier, int parity, const Site& site);
// Offset in the block's shared memory: what a 32-bit shared address is on the device.
uint32_t shared_address(const char* op, const void* address, const Site& site);

}  // namespace thrifty::cuda::host
