// Which experts to keep in few slots of fast memory, when their order of use is known (Read-ME,
// arXiv 2410.19123, section 4: one router ahead of the model tells the experts of every token) or
// guessed from the past.
//
// A miss loads the expert into a free slot, or evicts
//   belady  the expert whose next use is farthest (Belady 1966: fewest misses of all policies)
//   lru     the one used least recently
//   lfu     the one used least often since the beginning
// Ties, and experts that are never used again, go by least recent use. O(log slots) per miss.
#pragma once

#include <cstdint>
#include <vector>

namespace thrifty::moe {

class ExpertCache {
 public:
  enum class Policy { kBelady, kLru, kLfu };

  struct Load {
    int64_t at;                     // in the sequence of ids
    int32_t expert, slot, evicted;  // evicted: -1, the slot was free
  };

  ExpertCache(int64_t experts, int64_t slots, Policy policy);

  // Uses ids[now, stop); Belady looks ahead to `count`. Ids are in [0, experts).
  std::vector<Load> plan(const int32_t* ids, int64_t count, int64_t now, int64_t stop);

  const std::vector<int32_t>& expert_of_slot() const { return expert_of_slot_; }  // -1: free
  const std::vector<int32_t>& slot_of_expert() const { return slot_of_expert_; }  // -1: absent
  int64_t experts() const { return int64_t(slot_of_expert_.size()); }
  int64_t slots() const { return int64_t(expert_of_slot_.size()); }
  int64_t hits = 0, misses = 0;

 private:
  // The slot with the smallest (rank, last use) is evicted first.
  struct Entry {
    int64_t rank, used;
    int32_t slot;
    auto operator<=>(const Entry&) const = default;
  };
  std::vector<int64_t> next_uses(const int32_t* ids, int64_t count, int64_t now);
  void touch(int32_t slot, int64_t next);
  int64_t rank(int32_t expert, int64_t next) const;
  int32_t free_slot(int32_t& evicted);

  Policy policy_;
  std::vector<int32_t> expert_of_slot_, slot_of_expert_;
  std::vector<int64_t> uses_;  // per expert, since the beginning
  std::vector<int64_t> next_;  // per expert, while planning
  std::vector<Entry> entry_;   // per slot: its place in the heap, newer than stale copies
  std::vector<Entry> heap_;    // smallest first; entries that entry_ no longer has are stale
  int64_t clock_ = 0, filled_ = 0;
};

// Positions of the next batch, at most `most` requests of one expert in the order of arrival: those
// of the expert with most waiting (of equals, the one whose first came first); if a request has
// waited for `max_age` batches, those of the expert of the first such. ids: [n], the expert that
// each request needs; waited: [n] batches, or null; max_age < 0: no limit.
std::vector<int64_t> expert_batch(const int32_t* ids, const int32_t* waited, int64_t n,
                                  int64_t experts, int64_t most, int64_t max_age);

}  // namespace thrifty::moe
