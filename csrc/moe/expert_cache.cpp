#include "moe/expert_cache.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace thrifty::moe {

ExpertCache::ExpertCache(int64_t experts, int64_t slots, Policy policy)
    : policy_(policy),
      expert_of_slot_(size_t(slots), -1),
      slot_of_expert_(size_t(experts), -1),
      uses_(size_t(experts), 0),
      next_(size_t(experts), 0),
      entry_(size_t(slots)) {}

namespace {
constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
}

// For each position from `now` on, where the same expert is used next. Leaves in next_ where each
// is used first.
std::vector<int64_t> ExpertCache::next_uses(const int32_t* ids, int64_t count, int64_t now) {
  std::vector<int64_t> next(size_t(count - now));
  std::fill(next_.begin(), next_.end(), kNever);
  for (int64_t i = count - 1; i >= now; --i) {
    int64_t& of_expert = next_[size_t(ids[i])];
    next[size_t(i - now)] = of_expert;
    of_expert = i;
  }
  return next;
}

int64_t ExpertCache::rank(int32_t expert, int64_t next) const {
  switch (policy_) {
    case Policy::kBelady: return -next;  // farthest first; never: the smallest of all
    case Policy::kLru: return 0;
    case Policy::kLfu: return uses_[size_t(expert)];
  }
  return 0;
}

void ExpertCache::touch(int32_t slot, int64_t next) {
  Entry& entry = entry_[size_t(slot)];
  entry = {rank(expert_of_slot_[size_t(slot)], next), clock_++, slot};
  heap_.push_back(entry);
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  if (heap_.size() < 2 * entry_.size() + 64) return;
  heap_.clear();  // more stale entries than others
  for (int32_t s = 0; s < int32_t(entry_.size()); ++s) {
    if (expert_of_slot_[size_t(s)] >= 0) heap_.push_back(entry_[size_t(s)]);
  }
  std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
}

int32_t ExpertCache::free_slot(int32_t& evicted) {
  evicted = -1;
  if (filled_ < slots()) return int32_t(filled_++);
  while (true) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const Entry entry = heap_.back();
    heap_.pop_back();
    if (entry != entry_[size_t(entry.slot)]) continue;
    evicted = expert_of_slot_[size_t(entry.slot)];
    slot_of_expert_[size_t(evicted)] = -1;
    return entry.slot;
  }
}

std::vector<ExpertCache::Load> ExpertCache::plan(const int32_t* ids, int64_t count, int64_t now,
                                                 int64_t stop) {
  std::vector<int64_t> next;
  if (policy_ == Policy::kBelady) {
    next = next_uses(ids, count, now);
    heap_.clear();  // another future than at the last call
    for (int32_t s = 0; s < int32_t(entry_.size()); ++s) {
      const int32_t expert = expert_of_slot_[size_t(s)];
      if (expert < 0) continue;
      entry_[size_t(s)].rank = -next_[size_t(expert)];
      heap_.push_back(entry_[size_t(s)]);
    }
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
  }
  std::vector<Load> loads;
  for (int64_t i = now; i < stop; ++i) {
    const int32_t expert = ids[i];
    ++uses_[size_t(expert)];
    int32_t slot = slot_of_expert_[size_t(expert)];
    if (slot >= 0) {
      ++hits;
    } else {
      ++misses;
      int32_t evicted;
      slot = free_slot(evicted);
      expert_of_slot_[size_t(slot)] = expert, slot_of_expert_[size_t(expert)] = slot;
      loads.push_back({i, expert, slot, evicted});
    }
    touch(slot, next.empty() ? 0 : next[size_t(i - now)]);
  }
  return loads;
}

std::vector<int64_t> expert_batch(const int32_t* ids, const int32_t* waited, int64_t n,
                                  int64_t experts, int64_t most, int64_t max_age) {
  std::vector<int64_t> batch;
  if (n == 0) return batch;
  std::vector<int64_t> count(size_t(experts), 0);
  for (int64_t i = 0; i < n; ++i) ++count[size_t(ids[i])];
  int32_t chosen = ids[0];
  for (int64_t i = 0; i < n; ++i) {
    if (count[size_t(ids[i])] > count[size_t(chosen)]) chosen = ids[i];
  }
  for (int64_t i = 0; waited != nullptr && max_age >= 0 && i < n; ++i) {
    if (waited[i] < max_age) continue;
    chosen = ids[i];
    break;
  }
  for (int64_t i = 0; i < n && int64_t(batch.size()) < most; ++i) {
    if (ids[i] == chosen) batch.push_back(i);
  }
  return batch;
}

}  // namespace thrifty::moe
