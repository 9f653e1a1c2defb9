// The state of the running launch, shared by the files of the runtime and nobody else.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hostcuda/options.h"
#include "hostcuda/runtime.h"
#include "hostcuda/runtime/fiber.h"
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/ready_queue.h"

namespace thrifty::cuda::host {

struct PendingCopy {  // a cp.async in flight
  void* to;
  const void* from;
  int bytes;
  bool valid;
  int group;
};

struct Thread {
  enum class State : uint8_t { ready, waiting, done };
  int index = 0;
  uint3 id{};
  State state = State::ready;
  const char* op = nullptr;         // what it waits in, and where
  uint32_t mask = 0;                // of a warp operation, else 0
  const void* waits_for = nullptr;  // an mbarrier
  Site site;
  Fiber fiber;
  std::vector<PendingCopy> copies;
  int copy_group = 0;  // groups committed so far

  int lane() const { return index % 32; }
  int warp() const { return index / 32; }
};

// One warp operation in progress: its mask, who has come, and their slots.
struct Gathering {
  const char* op;
  uint32_t mask, arrived;
  bool aligned, orders_memory;
  Site site;
  void* slots[32];
};

struct Barrier {
  int arrived = 0, expected = 0;
  bool any = false, every = true;
  int count = 0;
  int result_any = 0, result_every = 0, result_count = 0;
  Site site;
  std::vector<int> waiting;
  race::Knowledge arriving;
};

struct SharedSlot {
  const void* key;
  const char* name;
  size_t offset, bytes;
};

struct Launch {
  const void* kernel = nullptr;
  const std::function<void()>* thread_body = nullptr;
  bool active = false, failed = false;
  std::string failure;
  std::exception_ptr foreign;  // an exception of the kernel's own

  int threads = 0, alive = 0;
  Thread* running = nullptr;
  std::vector<std::unique_ptr<Thread>> pool;
  ReadyQueue ready;
  std::vector<Gathering> gatherings[32];  // by warp
  Barrier barriers[16];                   // 0 is syncthreads

  char* arena = nullptr;  // shared memory of the block
  size_t arena_used = 0;
  std::vector<SharedSlot> slots;

  Thread& thread(int index) { return *pool[size_t(index)]; }
};

inline constexpr size_t kArenaBytes = size_t(256) << 10;

extern Launch the_launch;
inline Launch& current() { return the_launch; }
Thread& self(const char* op);  // the running thread; fails outside a kernel

// Suspends the running thread until `wake`.
void wait(const char* op, uint32_t mask, const Site& site);
void wake(Thread& thread);

// Marks the launch as failed, unless it already is. Its threads are never resumed again: unwinding
// them by exceptions is impossible from the places that the race checker stops at.
void record_failure(const std::string& message);
[[noreturn]] void stop(const std::string& message);  // records, and leaves the running thread
std::string block_place();                           // "block (1,0,0)"
std::string place(const Thread& thread);             // "block (1,0,0) thread (5,0,0)"
std::string source_line(const Site& site);           // "gemm.cu:41"
std::string kernel_name(const void* function);       // by the debug information
std::string code_line(const void* address);          // "file.cu:12" or ""
std::string describe_deadlock();

struct WarpOp {
  const char* name;
  bool aligned = false;        // all lanes must stand at one place of the source
  bool orders_memory = false;  // a barrier for memory, as only syncwarp is
};
using LaneSlots = void* const*;  // indexed by lane, null outside the mask

// The last lane to arrive gets the slots of all; the others return null once it called
// warp_release.
LaneSlots warp_arrive(const WarpOp& op, uint32_t mask, void* slot, const Site& site);
void warp_release();

void shared_begin_block(size_t dynamic_bytes);
void warp_on_exit(Thread& thread);
void barrier_on_exit(Thread& thread);

}  // namespace thrifty::cuda::host
