// Vector clocks of one block: who knows which accesses of whom.
//
// An agent is a thread, or a unit that works on its own: the wgmma of a warp, the copies that
// report to one mbarrier. Time is one counter for the launch. An access at clock c of agent u
// happened before what agent a does now if a's row has seen u at c or later; everything that
// threads did before the last barrier of the whole block (`base`) is known to all without being
// written down.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace thrifty::cuda::host::race {

inline constexpr int kWarpAgents = 32;
inline constexpr int kBarrierAgents = 64;

using Row = std::vector<uint32_t>;  // by agent

// What one block has made known through an atomic.
struct Published {
  uint32_t block = 0;
  uint32_t base = 0;
  Row row;
};

class Clocks {
 public:
  void begin_launch();
  void begin_block(int threads);

  int threads() const { return threads_; }
  int agents() const { return threads_ + kWarpAgents + kBarrierAgents; }
  int warp_agent(int warp) const { return threads_ + warp; }
  int barrier_agent(int number) const { return threads_ + kWarpAgents + number % kBarrierAgents; }

  uint32_t now(int agent) const { return clock_[size_t(agent)]; }
  uint32_t launch_start() const { return launch_start_; }
  uint32_t block_start() const { return block_start_; }
  // Blocks are numbered over the life of the process.
  uint32_t block() const { return block_; }
  uint32_t first_block() const { return first_block_; }  // of the launch
  // Whether the current block has learnt of that one through atomics and fences.
  bool knows(uint32_t block) const;

  // Whether access (agent, clock) of `block` happened before what `observer` does now.
  bool ordered(int agent, uint32_t clock, uint32_t block, int observer) const;

  void join_lanes(int warp, uint32_t mask);
  void join_block();
  // All that `agent` knows and did so far goes into `row`; what it does next is later.
  void release(int agent, Row& row);
  void acquire(int agent, const Row& row);

  // fence_async_shared: what the thread wrote so far may be read by units.
  void fence_for_async(int thread);
  bool fenced_for_async(int thread, uint32_t clock) const {
    return clock <= async_fence_[size_t(thread)];
  }

  static void take_max(Row& into, const Row& from);

  // threadfence, and an atomic between fences (the C++ fence model).
  void fence(int thread);
  void atomic(int thread, uintptr_t address, bool writes);

 private:
  Row& row(int agent) { return rows_[size_t(agent)]; }
  bool is_wide(int agent) const { return wide_at_[size_t(agent)] == base_; }
  static void merge(std::vector<Published>& all, const Published& one);

  int threads_ = 0;
  uint32_t time_ = 1, base_ = 0, launch_start_ = 0, block_start_ = 0;
  uint32_t block_ = 0, first_block_ = 1;
  bool units_used_ = false;  // some agent that is no thread has worked
  std::vector<uint32_t> clock_;
  std::vector<Row> rows_;
  std::vector<uint32_t> async_fence_;  // by thread: its clock at its last fence
  std::vector<uint32_t> wide_at_;      // base_ when the row last took in other warps
  std::vector<std::vector<Published>> released_, pending_;  // by thread
  std::unordered_map<uintptr_t, std::vector<Published>> atomics_;
  std::vector<Published> known_blocks_;  // to the whole current block, once one thread knows
};

}  // namespace thrifty::cuda::host::race
