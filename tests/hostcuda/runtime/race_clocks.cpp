// Joins, releases and acquires of the rows of race_clocks.h.
#include "hostcuda/runtime/race_clocks.h"

#include <algorithm>
#include <bit>

namespace thrifty::cuda::host::race {

void Clocks::take_max(Row& into, const Row& from) {
  if (into.size() < from.size()) into.resize(from.size(), 0);
  for (size_t i = 0; i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void Clocks::begin_launch() {
  launch_start_ = block_start_ = base_ = time_;
  ++time_;
  first_block_ = block_ + 1;
  atomics_.clear();
}

void Clocks::begin_block(int threads) {
  threads_ = threads;
  block_start_ = base_ = time_;
  ++time_;
  ++block_;
  units_used_ = false;
  const size_t all = size_t(agents());
  clock_.assign(all, time_);
  rows_.resize(all);
  for (Row& row : rows_) row.assign(all, 0);
  wide_at_.assign(all, 0);
  async_fence_.assign(size_t(threads), 0);
  released_.assign(size_t(threads), {});
  pending_.assign(size_t(threads), {});
  known_blocks_.clear();
}

bool Clocks::ordered(int agent, uint32_t clock, uint32_t block, int observer) const {
  if (block != block_) {
    for (const Published& known : known_blocks_)
      if (known.block == block) return clock <= known.base || clock <= known.row[size_t(agent)];
    return false;
  }
  if (agent == observer) return true;
  if (agent < threads_ && clock <= base_) return true;
  return clock <= rows_[size_t(observer)][size_t(agent)];
}

bool Clocks::knows(uint32_t block) const {
  for (const Published& known : known_blocks_)
    if (known.block == block) return true;
  return false;
}

void Clocks::join_lanes(int warp, uint32_t mask) {
  bool wide = false;
  for (uint32_t left = mask; left; left &= left - 1)
    wide |= is_wide(warp * 32 + std::countr_zero(left));
  // Rows that met nobody outside the warp since the last block barrier have nothing to say
  // elsewhere.
  const int first = wide ? 0 : warp * 32;
  const int last = wide ? threads_ : std::min(threads_, warp * 32 + 32);
  const auto for_columns = [&](auto&& body) {
    for (int i = first; i < last; ++i) body(size_t(i));
    if (units_used_)
      for (int i = threads_; i < agents(); ++i) body(size_t(i));
  };
  static Row joined;
  joined.assign(size_t(agents()), 0);
  for (uint32_t left = mask; left; left &= left - 1) {
    const int lane = warp * 32 + std::countr_zero(left);
    for_columns([&](size_t i) { joined[i] = std::max(joined[i], row(lane)[i]); });
    joined[size_t(lane)] = std::max(joined[size_t(lane)], now(lane));
  }
  ++time_;
  for (uint32_t left = mask; left; left &= left - 1) {
    const int lane = warp * 32 + std::countr_zero(left);
    for_columns([&](size_t i) { row(lane)[i] = joined[i]; });
    clock_[size_t(lane)] = time_;
    if (wide) wide_at_[size_t(lane)] = base_;
  }
}

void Clocks::join_block() {
  base_ = time_;
  ++time_;
  for (int i = 0; i < threads_; ++i) clock_[size_t(i)] = time_;
  if (!units_used_) return;
  for (size_t unit = size_t(threads_); unit < size_t(agents()); ++unit) {
    uint32_t latest = 0;
    for (int i = 0; i < threads_; ++i) latest = std::max(latest, row(i)[unit]);
    for (int i = 0; i < threads_; ++i) row(i)[unit] = latest;
  }
}

void Clocks::release(int agent, Row& into) {
  into.resize(size_t(agents()), 0);
  take_max(into, row(agent));
  // What block barriers told the agent is in base, not in its row; the reader may have less.
  for (int i = 0; i < threads_; ++i) into[size_t(i)] = std::max(into[size_t(i)], base_);
  into[size_t(agent)] = now(agent);
  clock_[size_t(agent)] = ++time_;
  if (agent >= threads_) units_used_ = true;
}

void Clocks::acquire(int agent, const Row& from) {
  if (from.empty()) return;
  take_max(row(agent), from);
  wide_at_[size_t(agent)] = base_;
}

void Clocks::fence_for_async(int thread) {
  async_fence_[size_t(thread)] = now(thread);
  clock_[size_t(thread)] = ++time_;
}

void Clocks::merge(std::vector<Published>& all, const Published& one) {
  for (Published& known : all)
    if (known.block == one.block) {
      known.base = std::max(known.base, one.base);
      take_max(known.row, one.row);
      return;
    }
  all.push_back(one);
}

void Clocks::fence(int thread) {
  auto& pending = pending_[size_t(thread)];
  for (const Published& told : pending) {
    if (told.block == block_)
      acquire(thread, told.row);
    else
      merge(known_blocks_, told);
  }
  pending.clear();
  auto& released = released_[size_t(thread)];
  released = known_blocks_;
  Published mine{block_, base_, {}};
  release(thread, mine.row);
  released.push_back(std::move(mine));
}

void Clocks::atomic(int thread, uintptr_t address, bool writes) {
  const auto told = atomics_.find(address);
  if (told != atomics_.end())
    for (const Published& one : told->second) merge(pending_[size_t(thread)], one);
  if (!writes || released_[size_t(thread)].empty()) return;
  for (const Published& one : released_[size_t(thread)]) merge(atomics_[address], one);
}

}  // namespace thrifty::cuda::host::race
