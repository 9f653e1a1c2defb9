// What a test chooses (schedule, poison, limits) and what it gets back (Fault, statistics).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace thrifty::cuda::host {

// The order in which runnable threads get the processor. A thread keeps it until it waits, or until
// an operation on which others might depend (barrier, warp operation, atomic, asynchronous copy).
struct Schedule {
  enum class Kind {
    in_order,  // lowest thread first, blocks in order
    reversed,  // highest thread first, blocks in reverse
    random,    // seeded; blocks shuffled
    starve,    // warp seed runs only when no other can, warp seed + 1 always runs if it can
  };
  Kind kind = Kind::in_order;
  uint64_t seed = 0;
  std::string name() const;
};

// In order, reversed, `randoms` seeded random orders and `starved` adversarial ones.
std::vector<Schedule> schedules(int randoms = 20, int starved = 8);

struct Options {
  Schedule schedule;
  uint16_t poison = 0x7fff;                 // repeated; a NaN in every floating type
  size_t shared_limit = size_t(227) << 10;  // of a block on sm_90; 163 KiB on sm_80
};
Options& options();

struct Stats {
  uint64_t threads = 0, switches = 0, warp_ops = 0, barriers = 0;
};
Stats& stats();

// A kernel misbehaved; what() names kernel, block, thread, operation and source line.
struct Fault : std::runtime_error {
  using runtime_error::runtime_error;
};

}  // namespace thrifty::cuda::host
