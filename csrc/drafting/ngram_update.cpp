// Updates of the n-gram table, and queries of it.
#include <algorithm>
#include <cmath>

#include "drafting/ngram_table.h"

namespace thrifty::drafting {
namespace {

// entry <- old_weight entry + new_weight (ids, probs), the k largest in descending order, of equal
// ones the older first; null probs are ones.
void mix(NgramEntry& entry, int k, float old_weight, float new_weight, const int32_t* ids,
         const float* probs, int64_t width) {
  int32_t all_ids[2 * kMaxK];
  float all_probs[2 * kMaxK];
  const int old = entry.m;
  for (int i = 0; i < old; ++i) {
    all_ids[i] = entry.ids[i], all_probs[i] = old_weight * entry.probs[i];
  }
  int total = old;
  for (int j = 0; j < k && j < width && ids[j] >= 0; ++j) {
    const float prob = new_weight * (probs != nullptr ? probs[j] : 1.0f);
    int at = j;  // a context's tokens mostly keep their order
    if (at >= old || all_ids[at] != ids[j]) {
      for (at = 0; at < old && all_ids[at] != ids[j];) ++at;
    }
    if (at < old) {
      all_probs[at] += prob;
    } else {
      all_ids[total] = ids[j], all_probs[total] = prob, ++total;
    }
  }
  // Insertion: both halves come sorted, or nearly.
  int m = 0;
  for (int i = 0; i < total; ++i) {
    const float prob = all_probs[i];
    if (prob < kSmallestProb || (m == k && prob <= entry.probs[k - 1])) continue;
    int at = m < k ? m++ : k - 1;
    for (; at > 0 && entry.probs[at - 1] < prob; --at) {
      entry.probs[at] = entry.probs[at - 1], entry.ids[at] = entry.ids[at - 1];
    }
    entry.probs[at] = prob, entry.ids[at] = all_ids[i];
  }
  entry.m = m;
}

// The running mean (P2 of STAND).
void observe(NgramEntry& entry, int k, int64_t cap, const int32_t* ids, const float* probs,
             int64_t width) {
  const float weight = 1.0f / (float(std::min<int64_t>(entry.count, cap)) + 1);
  mix(entry, k, 1 - weight, weight, ids, probs, width);
  if (entry.count < UINT32_MAX) ++entry.count;
}

void count(uint64_t& counter, int64_t more) {
  std::atomic_ref<uint64_t>(counter).fetch_add(uint64_t(more), std::memory_order_relaxed);
}

struct Tally {
  int64_t fresh = 0, evicted = 0;
  void add(Place place) { fresh += place == Place::kFree, evicted += place == Place::kEvicted; }
};

}  // namespace

// Keys whose bucket belongs to `part`, in the order of rows.
void NgramTable::update_part(const uint64_t* keys, const Contexts& contexts,
                             const Followers& followers, uint32_t age, int64_t part,
                             int64_t parts) {
  constexpr int64_t kAheadKeys = 16, kAheadSlots = 8;  // a miss to memory takes some ten updates
  const int orders = n_max_ - n_min_ + 1;
  const int64_t total = contexts.rows * orders, cap = header().count_cap;
  const auto mine = [&](uint64_t key) {
    return key != 0 && (parts == 1 || int64_t(store_->bucket_number(key)) % parts == part);
  };
  Tally tally;
  int64_t merged = 0;
  for (int64_t i = 0; i < total; ++i) {
    if (i + kAheadKeys < total) store_->prefetch_keys(keys[i + kAheadKeys]);
    if (i + kAheadSlots < total) {
      const int64_t slot = store_->find(keys[i + kAheadSlots]);
      if (slot >= 0) store_->prefetch_slot(slot);
    }
    if (!mine(keys[i])) continue;
    const int64_t row = i / orders;
    const int32_t* ids = followers.ids + row * followers.width;
    const float* probs =
        followers.probs != nullptr ? followers.probs + row * followers.width : nullptr;
    tally.add(store_->upsert(keys[i], age, [&](NgramEntry& entry) {
      observe(entry, k(), cap, ids, probs, followers.width);
    }));
    ++merged;
  }
  NgramHeader& h = store_->header();
  count(h.used, tally.fresh), count(h.evictions, tally.evicted), count(h.updates, merged);
}

void NgramTable::update(const Contexts& contexts, const Followers& followers,
                        ParallelFor parallel) {
  constexpr int64_t kSplit = 4096;  // keys; fewer are done sooner than another thread wakes
  const int orders = n_max_ - n_min_ + 1;
  const int64_t rows = contexts.rows;
  if (rows == 0) return;
  std::vector<uint64_t> keys(size_t(rows * orders));
  const auto hash = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      context_keys(*this, contexts.end(i), contexts.length(i, n_max_), &keys[size_t(i * orders)]);
    }
  };
  uint64_t& clock = store_->header().clock;
  const auto age = uint32_t(std::atomic_ref<uint64_t>(clock).fetch_add(1) + 1);
  if (rows * orders < kSplit) {
    hash(0, rows);
    return update_part(keys.data(), contexts, followers, age, 0, 1);
  }
  for_ranges(parallel, rows, hash);
  const int64_t parts = std::min(get_num_threads(), 64);
  for_each(parallel, parts,
           [&](int64_t part) { update_part(keys.data(), contexts, followers, age, part, parts); });
}

void NgramTable::merge(const NgramTable& other) {
  const int64_t cap = header().count_cap;
  const NgramStore& theirs = *other.store_;
  uint64_t& clock = store_->header().clock;
  const auto age = uint32_t(std::atomic_ref<uint64_t>(clock).fetch_add(1) + 1);
  Tally tally;
  for (int64_t slot = 0; slot < theirs.capacity(); ++slot) {
    const uint64_t key = theirs.key(slot);
    NgramEntry from;
    if (key == 0 || !theirs.read(slot, key, from)) continue;
    tally.add(store_->upsert(key, age, [&](NgramEntry& entry) {
      const double mine = double(std::min<int64_t>(entry.count, cap));
      const double their = double(std::min<int64_t>(from.count, cap));
      const double sum = mine + their;
      mix(entry, k(), float(mine / sum), float(their / sum), from.ids, from.probs, from.m);
      entry.count = uint32_t(std::min<uint64_t>(uint64_t(entry.count) + from.count, UINT32_MAX));
    }));
  }
  NgramHeader& h = store_->header();
  count(h.used, tally.fresh), count(h.evictions, tally.evicted);
}

void NgramTable::probabilities(const Contexts& contexts, const int32_t* ids, int64_t width,
                               float* probs, int32_t* counts, ParallelFor parallel) const {
  const int orders = n_max_ - n_min_ + 1;
  for_each(parallel, contexts.rows, [&](int64_t row) {
    uint64_t keys[kMaxOrder];
    context_keys(*this, contexts.end(row), contexts.length(row, n_max_), keys);
    for (int n = 0; n < orders; ++n) {
      float* out = probs + (row * orders + n) * width;
      std::fill(out, out + width, 0.0f);
      NgramEntry entry;
      const int64_t slot = keys[n] != 0 ? store_->find(keys[n]) : -1;
      const bool found = slot >= 0 && store_->read(slot, keys[n], entry);
      counts[row * orders + n] = found ? int32_t(std::min<uint32_t>(entry.count, INT32_MAX)) : 0;
      for (int64_t j = 0; found && j < width; ++j) {
        for (int i = 0; i < entry.m; ++i) {
          if (entry.ids[i] == ids[row * width + j]) out[j] = entry.probs[i];
        }
      }
    }
  });
}

}  // namespace thrifty::drafting
