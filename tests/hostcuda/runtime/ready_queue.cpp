// Strict schedules (in order, reversed, starving) are permutations of ranks where the lowest
// runnable rank runs; the random one draws among the runnable.
#include "hostcuda/runtime/ready_queue.h"

#include <bit>

namespace thrifty::cuda::host {

std::string Schedule::name() const {
  switch (kind) {
    case Kind::in_order: return "in order";
    case Kind::reversed: return "reversed";
    case Kind::random: return "random " + std::to_string(seed);
    case Kind::starve: return "starve " + std::to_string(seed);
  }
  return "";
}

std::vector<Schedule> schedules(int randoms, int starved) {
  std::vector<Schedule> all{{Schedule::Kind::in_order}, {Schedule::Kind::reversed}};
  for (int i = 0; i < starved; ++i) all.push_back({Schedule::Kind::starve, uint64_t(i)});
  for (int i = 0; i < randoms; ++i) all.push_back({Schedule::Kind::random, uint64_t(i) + 1});
  return all;
}

uint64_t ReadyQueue::next_random() {  // xorshift64
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  return random_;
}

void ReadyQueue::order_by_warp(int threads, int first_warp) {
  const int warps = (threads + 31) / 32;
  int rank = 0;
  for (int i = 0; i < warps; ++i) {
    const int warp = (first_warp + i) % warps;
    for (int thread = warp * 32; thread < threads && thread < warp * 32 + 32; ++thread)
      thread_at_[size_t(rank++)] = thread;
  }
}

void ReadyQueue::begin_block(const Schedule& schedule, int threads, uint64_t salt) {
  schedule_ = schedule;
  words_ = (threads + 63) / 64;
  rank_of_.resize(size_t(threads));
  thread_at_.resize(size_t(threads));
  deferred_.clear();
  idle_rounds_ = 0;
  random_ = (schedule.seed * 1000003 + salt + 1) * 0x9e3779b97f4a7c15u | 1;
  const int warps = (threads + 31) / 32;
  switch (schedule.kind) {
    case Schedule::Kind::in_order:
    case Schedule::Kind::random: order_by_warp(threads, 0); break;
    case Schedule::Kind::reversed:
      for (int rank = 0; rank < threads; ++rank) thread_at_[size_t(rank)] = threads - 1 - rank;
      break;
    case Schedule::Kind::starve:  // warp seed comes last, seed + 1 first
      order_by_warp(threads, int((schedule.seed + 1) % uint64_t(warps)));
      break;
  }
  for (int rank = 0; rank < threads; ++rank) rank_of_[size_t(thread_at_[size_t(rank)])] = rank;
  ready_.fill(0);
  for (int thread = 0; thread < threads; ++thread) insert(thread);
}

void ReadyQueue::insert(int thread) {
  const int rank = rank_of_[size_t(thread)];
  ready_[size_t(rank / 64)] |= uint64_t(1) << rank % 64;
}

void ReadyQueue::remove(int thread) {
  const int rank = rank_of_[size_t(thread)];
  ready_[size_t(rank / 64)] &= ~(uint64_t(1) << rank % 64);
}

void ReadyQueue::defer(int thread) {
  remove(thread);
  deferred_.push_back(thread);
}

int ReadyQueue::lowest_rank() const {
  for (int word = 0; word < words_; ++word)
    if (ready_[size_t(word)]) return word * 64 + std::countr_zero(ready_[size_t(word)]);
  return -1;
}

int ReadyQueue::pick() {
  int rank = lowest_rank();
  if (rank < 0 && !deferred_.empty()) {
    ++idle_rounds_;
    for (int thread : deferred_) insert(thread);
    deferred_.clear();
    rank = lowest_rank();
  } else if (deferred_.empty()) {
    idle_rounds_ = 0;
  }
  if (rank < 0) return -1;
  if (schedule_.kind == Schedule::Kind::random) {
    const int start = int(next_random() >> 33) % int(rank_of_.size());
    for (int i = 0; i <= words_; ++i) {
      uint64_t bits = ready_[size_t((start / 64 + i) % words_)];
      if (i == 0) bits &= ~uint64_t(0) << start % 64;
      if (bits) return thread_at_[size_t((start / 64 + i) % words_ * 64 + std::countr_zero(bits))];
    }
  }
  return thread_at_[size_t(rank)];
}

bool ReadyQueue::preempts(int thread) {
  if (schedule_.kind != Schedule::Kind::random) return lowest_rank() < rank_of_[size_t(thread)];
  // Seeds differ in how long a thread keeps going, so that both fine and coarse mixtures occur.
  const uint64_t keeps = schedule_.seed % 3;
  if (keeps == 0) return true;
  return (next_random() >> 40) % (keeps == 1 ? 2 : 16) == 0;
}

}  // namespace thrifty::cuda::host
