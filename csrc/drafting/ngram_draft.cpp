// Drafting: templates filled from the table, level by level.
//
// A level's keys are all computed, then all looked up, then all slots read, so that the misses to
// memory of a level overlap. Children are appended breadth first, hence valid nodes stand in front.
#if defined(__GNUC__) && !defined(__clang__)
// Slots are copied word by word, as atomics have to be; a vector load of what was just stored in
// parts would wait for the stores to leave the core. 1.3 times faster.
#pragma GCC optimize("no-tree-vectorize")
#endif

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/philox.h"
#include "drafting/ngram_table.h"

namespace thrifty::drafting {
namespace {

// Word 1 of the counters: another than those of draws and coins (core/logits.h), so that a draft
// knows nothing of the numbers that it is verified with under the same seed and offset.
constexpr uint32_t kDraftStream = 4;

// q_i = p_i^inv_temp / sum over the entry's pairs; how many there are. Pairs too small to be drawn,
// which are the last ones, are left out, as verification divides by q.
int distribution(const NgramEntry& entry, float inv_temp, float* q) {
  int m = entry.m;
  float even = 0, odd = 0;
  for (int i = 0; i < m; ++i) {
    q[i] = entry.probs[i];
    if (inv_temp != 1) {
      q[i] = std::pow(q[i] / entry.probs[0], inv_temp);
      if (q[i] < kSmallestProb) {
        m = i;
        break;
      }
    }
    (i % 2 == 0 ? even : odd) += q[i];
  }
  const float scale = 1 / (even + odd);
  for (int i = 0; i < m; ++i) q[i] *= scale;
  return m;
}

// `count` distinct indices of q, each drawn from what is left, child r by words[r]: the law of
// Gumbel's top `count`, without logarithms.
void draw(const float* q, int m, int count, const uint32_t* words, int* chosen) {
  double left[kMaxK], total = 1;
  for (int r = 0; r < count; ++r) {
    if (r == 1) {
      for (int i = 0; i < m; ++i) left[i] = double(q[i]);
    }
    if (r > 0) {
      left[chosen[r - 1]] = total = 0;
      for (int i = 0; i < m; ++i) total += left[i];
    }
    double target = (words[r] + 0.5) * 0x1p-32 * total;
    int pick = -1;
    for (int i = 0; i < m; ++i) {
      const double share = r == 0 ? double(q[i]) : left[i];
      if (share == 0) continue;
      pick = i;
      target -= share;
      if (target < 0) break;
    }
    chosen[r] = pick;
  }
}

// A word of randomness for each slot of a template: slot s takes word s % 4 of counter s / 4.
void draw_words(int64_t seed, int64_t offset, int64_t slots, uint32_t* words) {
  for (int64_t i = 0; i < slots; i += 4) {
    const Philox4 four = philox(uint64_t(seed), {{uint32_t(i / 4), kDraftStream, uint32_t(offset),
                                                  uint32_t(uint64_t(offset) >> 32)}});
    std::memcpy(words + i, four.word, sizeof four.word);
  }
}

// The newest tokens of a node's context, the last one at the end.
struct History {
  int32_t tokens[kMaxOrder];
};

// One context that a node may be looked up by.
struct Found {
  const NgramStore* store = nullptr;
  int64_t slot = -1;
  uint64_t key = 0;
};

// Fills the trees of a range of sequences; holds the scratch memory for one.
class Filler {
 public:
  Filler(const NgramTable& table, const Contexts& contexts, const DraftTemplate& shape,
         const std::vector<NgramTable*>& first, const DraftSettings& settings,
         const DraftArrays& out)
      : table_(table),
        contexts_(contexts),
        shape_(shape),
        first_(first),
        settings_(settings),
        out_(out),
        order_(table.n_max()),
        nodes_(shape.size()),
        k_(table.k()),
        history_(size_t(nodes_)),
        keys_(size_t(nodes_ * order_ * 2)),
        found_(size_t(nodes_)),
        words_(size_t(nodes_ + 3)) {}

  void fill(int64_t b) {
    start(b);
    int64_t begin = 0, end = 1;
    while (begin < end) {
      for (int64_t i = begin; i < end; ++i) hash(i);
      for (int64_t i = begin; i < end; ++i) look_up(i);
      for (int64_t i = begin; i < end; ++i) expand(b, i);
      begin = end, end = size_;
    }
    finish(b);
  }

  int64_t lookups = 0, hits = 0;

 private:
  int32_t* at(int32_t* array, int64_t b) const { return array + b * nodes_; }

  void start(int64_t b) {
    const int64_t len = contexts_.length(b, order_);
    const int32_t* end = contexts_.end(b);
    size_ = 1, len_ = int(len);
    // The newest tokens at the right end, as in a tail; what is missing is never read.
    std::copy(end - len, end, history_[0].tokens + kMaxOrder - len);
    tables_[0] = first_.empty() || first_[size_t(b)] == nullptr ? nullptr : first_[size_t(b)];
    tables_[1] = &table_;
    at(out_.tokens, b)[0] = end[-1];
    at(out_.parents, b)[0] = -1;
    at(out_.depths, b)[0] = at(out_.slots, b)[0] = 0;
    at(out_.next_sibling, b)[0] = -1;
    int64_t* ancestors = out_.ancestors + b * nodes_ * shape_.words();
    std::fill(ancestors, ancestors + shape_.words(), 0);
    ancestors[0] = 1;
    std::fill_n(out_.q_ids + b * nodes_ * k_, nodes_ * k_, -1);
    std::fill_n(out_.q + b * nodes_ * k_, nodes_ * k_, 0.0f);
    if (settings_.sample) {
      draw_words(settings_.seeds[b], settings_.offsets[b], nodes_, words_.data());
    }
    tokens_ = at(out_.tokens, b), slots_ = at(out_.slots, b), depths_ = at(out_.depths, b);
  }

  int context_length(int64_t node) const { return std::min<int>(len_ + depths_[node], order_); }

  void hash(int64_t node) {
    if (shape_.child_count[size_t(slots_[node])] == 0) return;
    const int32_t* end = history_[size_t(node)].tokens + kMaxOrder;
    for (int t = 0; t < 2; ++t) {
      if (tables_[t] == nullptr) continue;
      uint64_t* keys = keys_.data() + (node * 2 + t) * order_;
      context_keys(*tables_[t], end, context_length(node), keys);
      // Buckets of shorter contexts are few and in use all the time: they are in the cache.
      const int longest = std::min(context_length(node), order_) - table_.n_min();
      for (int n = longest; n >= 0 && n > longest - 2; --n) {
        tables_[t]->store().prefetch_keys(keys[n]);
      }
    }
  }

  // The longest context that a table knows; of equally long ones the first table's.
  void look_up(int64_t node) {
    Found& found = found_[size_t(node)];
    found = {};
    if (shape_.child_count[size_t(slots_[node])] == 0) return;
    ++lookups;
    for (int n = table_.n_max() - table_.n_min(); n >= 0; --n) {
      for (int t = 0; t < 2; ++t) {
        if (tables_[t] == nullptr) continue;
        const uint64_t key = keys_[size_t((node * 2 + t) * order_ + n)];
        const NgramStore& store = tables_[t]->store();
        const int64_t slot = key != 0 ? store.find(key) : -1;
        if (slot >= 0) {
          found = {&store, slot, key};
          return store.prefetch_slot(slot);
        }
      }
    }
  }

  void expand(int64_t b, int64_t node) {
    at(out_.first_child, b)[node] = -1;
    const Found& found = found_[size_t(node)];
    NgramEntry entry;
    if (found.store == nullptr || !found.store->read(found.slot, found.key, entry)) return;
    if (entry.m == 0) return;
    const int slot = slots_[node];
    const int count = std::min(shape_.child_count[size_t(slot)], entry.m);
    int32_t* ids = out_.q_ids + (b * nodes_ + node) * k_;
    float* q_out = out_.q + (b * nodes_ + node) * k_;
    int chosen[kMaxK];
    int drawn = count;
    if (!settings_.sample) {
      for (int i = 0; i < count; ++i) chosen[i] = i;
    } else {
      float q[kMaxK];
      const int m = distribution(entry, settings_.inv_temp, q);
      for (int i = 0; i < k_; ++i) {
        ids[i] = i < m ? entry.ids[i] : -1;
        q_out[i] = i < m ? q[i] : 0;
      }
      drawn = std::min(count, m);
      draw(q, m, drawn, words_.data() + shape_.child_begin[size_t(slot)], chosen);
    }
    ++hits;
    at(out_.first_child, b)[node] = int32_t(size_);
    for (int i = 0; i < drawn; ++i) {
      append(b, node, shape_.child_begin[size_t(slot)] + i, entry.ids[chosen[i]], i + 1 == drawn);
    }
  }

  void append(int64_t b, int64_t parent, int32_t slot, int32_t token, bool last) {
    const int64_t node = size_++, words = shape_.words();
    tokens_[node] = token, slots_[node] = slot, depths_[node] = depths_[parent] + 1;
    at(out_.parents, b)[node] = int32_t(parent);
    at(out_.next_sibling, b)[node] = last ? -1 : int32_t(node + 1);
    int64_t *theirs = out_.ancestors + (b * nodes_ + parent) * words,
            *own = out_.ancestors + (b * nodes_ + node) * words;
    own[0] = theirs[0];
    if (words == 2) own[1] = theirs[1];  // a call of memcpy would be most of this function
    if (words > 2) std::memcpy(own, theirs, size_t(words) * sizeof *own);
    own[node / 64] = int64_t(uint64_t(own[node / 64]) | uint64_t(1) << (node % 64));
    if (shape_.child_count[size_t(slot)] == 0) return;
    History& history = history_[size_t(node)];
    std::memcpy(history.tokens, history_[size_t(parent)].tokens + 1, 4 * (kMaxOrder - 1));
    history.tokens[kMaxOrder - 1] = token;
  }

  void finish(int64_t b) {
    out_.sizes[b] = int32_t(size_);
    for (int32_t* array : {out_.tokens, out_.parents, out_.first_child, out_.next_sibling,
                           out_.depths, out_.slots}) {
      std::fill(at(array, b) + size_, at(array, b) + nodes_, -1);
    }
    const int64_t words = shape_.words();
    std::fill(out_.ancestors + (b * nodes_ + size_) * words,
              out_.ancestors + (b + 1) * nodes_ * words, 0);
  }

  const NgramTable& table_;
  const Contexts& contexts_;
  const DraftTemplate& shape_;
  const std::vector<NgramTable*>& first_;
  const DraftSettings& settings_;
  const DraftArrays& out_;
  const int order_;
  const int64_t nodes_, k_;
  std::vector<History> history_;  // [nodes]: the tokens that end with the node
  std::vector<uint64_t> keys_;    // [nodes, 2 tables, orders]
  std::vector<Found> found_;      // [nodes]
  std::vector<uint32_t> words_;   // [nodes]: by slot
  const NgramTable* tables_[2] = {};
  int64_t size_ = 0;
  int len_ = 0;
  int32_t *tokens_ = nullptr, *slots_ = nullptr, *depths_ = nullptr;  // of the sequence
};

}  // namespace

void NgramTable::draft(const Contexts& contexts, const DraftTemplate& shape,
                       const std::vector<NgramTable*>& first, const DraftSettings& settings,
                       const DraftArrays& out, ParallelFor parallel) const {
  constexpr int64_t kFew = 8;  // sequences: done sooner than another thread wakes
  const auto range = [&](int64_t begin, int64_t end) {
    Filler filler(*this, contexts, shape, first, settings, out);
    for (int64_t b = begin; b < end; ++b) filler.fill(b);
    NgramHeader& h = store_->header();
    std::atomic_ref<uint64_t>(h.lookups).fetch_add(uint64_t(filler.lookups));
    std::atomic_ref<uint64_t>(h.hits).fetch_add(uint64_t(filler.hits));
  };
  if (contexts.rows == 0) return;
  if (contexts.rows <= kFew) return range(0, contexts.rows);
  for_ranges(parallel, contexts.rows, range);
}

}  // namespace thrifty::drafting
