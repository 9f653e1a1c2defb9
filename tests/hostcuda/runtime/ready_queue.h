// The runnable threads of a block in the order of a schedule: a bitmap over ranks.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "hostcuda/options.h"

namespace thrifty::cuda::host {

class ReadyQueue {
 public:
  // All threads become runnable. `salt` tells the blocks of a launch apart in random orders.
  void begin_block(const Schedule& schedule, int threads, uint64_t salt);
  void insert(int thread);
  void remove(int thread);
  // Runs again only once no other thread can.
  void defer(int thread);
  // The thread to run next, or -1.
  int pick();
  // Whether the running thread should let another go first.
  bool preempts(int thread);
  // Rounds in which only deferred threads ran; a high count is a livelock.
  int idle_rounds() const { return idle_rounds_; }

 private:
  uint64_t next_random();
  void order_by_warp(int threads, int first_warp);
  int lowest_rank() const;

  Schedule schedule_;
  int words_ = 0;
  std::vector<int> rank_of_;    // thread -> rank
  std::vector<int> thread_at_;  // rank -> thread
  std::array<uint64_t, 16> ready_{};
  std::vector<int> deferred_;
  int idle_rounds_ = 0;
  uint64_t random_ = 1;
};

}  // namespace thrifty::cuda::host
