// Drafting: templates filled from the table, level by level.
//
// A level's keys are all computed, then all looked up, then all slots read, and that for several
// sequences at once, so that misses to memory overlap. Children are appended breadth first, hence
// valid nodes stand in front.
#include <algorithm>
#include <cstring>

#include "core/philox.h"
#include "core/scratch.h"
#include "drafting/ngram_kernels.h"
#include "drafting/ngram_table.h"

namespace thrifty::drafting {
namespace {

// Word 1 of the counters: another than those of draws and coins (core/logits.h), so that a draft
// knows nothing of the numbers that it is verified with under the same seed and offset.
constexpr uint32_t kDraftStream = 4;

// A word of randomness for each slot of a template: slot s takes word s % 4 of counter s / 4.
void draw_words(int64_t seed, int64_t offset, int64_t slots, uint32_t* words) {
  for (int64_t i = 0; i < slots; i += 4) {
    const Philox4 four = philox(uint64_t(seed), {{uint32_t(i / 4), kDraftStream, uint32_t(offset),
                                                  uint32_t(uint64_t(offset) >> 32)}});
    std::memcpy(words + i, four.word, sizeof four.word);
  }
}

// The newest tokens of a node's context, two in a word, the newest in the first word's low half.
struct Context {
  uint64_t pairs[kMaxOrder / 2];

  void push(const Context& before, int32_t token, int order) {
    uint64_t carry = uint32_t(token);
    for (int i = 0; i < (order + 1) / 2; ++i) {
      const uint64_t pair = before.pairs[i];
      pairs[i] = pair << 32 | carry;
      carry = pair >> 32;
    }
  }
  int32_t operator[](int age) const { return int32_t(pairs[age / 2] >> (age % 2 * 32)); }
};

// A node that the template gives children.
struct Parent {
  int64_t node;
  Context context;
};

// One sequence's tree while it is filled.
struct Tree {
  int32_t *tokens, *parents, *first_child, *next_sibling, *depths, *slots, *q_ids;
  int64_t* ancestors;
  float* q;
  NgramKernels::Table tables[2];  // in the order in which they are asked; the first may be none
  uint64_t seeds[2];              // of their hashes
  int64_t size = 1;               // nodes so far
  int len = 0, depth = 0;         // tokens of the tail, level
  Parent *level, *next;           // [nodes] each
  int64_t level_size = 0, next_size = 0;
  NgramKernels::Place* places;  // [level_size]
  uint64_t* keys;               // [level_size, 2 tables, orders]
  uint32_t* words;              // [nodes]: by slot
};

constexpr int64_t kTogether = 8;  // sequences; more would not fit the first cache

// Fills the trees of kTogether sequences at a time; holds their scratch memory.
class Filler {
 public:
  Filler(const NgramTable& table, const Contexts& contexts, const DraftTemplate& shape,
         const std::vector<NgramTable*>& first, const DraftSettings& settings,
         const DraftArrays& out, int64_t together)
      : table_(table),
        contexts_(contexts),
        shape_(shape),
        first_(first),
        settings_(settings),
        out_(out),
        kernels_(ngram_kernels()),
        order_(table.n_max()),
        k_(table.k()),
        nodes_(shape.size()),
        memory_(together * tree_bytes()) {}

  void fill(int64_t begin, int64_t end) {
    Tree trees[kTogether];
    for (int64_t b = begin; b < end; ++b) trees[b - begin] = start(b, b - begin);
    const int64_t count = end - begin;
    for (bool more = true; more;) {
      more = false;
      for (int64_t i = 0; i < count; ++i) hash(trees[i]);
      for (int64_t i = 0; i < count; ++i) look_up(trees[i]);
      for (int64_t i = 0; i < count; ++i) {
        expand(trees[i]);
        more |= trees[i].level_size > 0;
      }
    }
    for (int64_t b = begin; b < end; ++b) finish(trees[b - begin], b);
  }

  int64_t lookups = 0, hits = 0;

 private:
  int64_t keys_bytes() const { return nodes_ * 2 * order_ * int64_t(sizeof(uint64_t)); }
  int64_t parents_bytes() const { return nodes_ * int64_t(sizeof(Parent)); }
  int64_t places_bytes() const { return nodes_ * int64_t(sizeof(NgramKernels::Place)); }
  int64_t tree_bytes() const {
    return round_up(2 * parents_bytes() + places_bytes() + keys_bytes() + (nodes_ + 3) * 4, 64);
  }

  Tree start(int64_t b, int64_t place) {
    Tree tree;
    const int64_t at = b * nodes_;
    tree.tokens = out_.tokens + at, tree.parents = out_.parents + at;
    tree.first_child = out_.first_child + at, tree.next_sibling = out_.next_sibling + at;
    tree.depths = out_.depths + at, tree.slots = out_.slots + at;
    tree.q_ids = out_.q_ids + at * k_, tree.q = out_.q + at * k_;
    tree.ancestors = out_.ancestors + at * shape_.words();
    const NgramTable* first = first_.empty() ? nullptr : first_[size_t(b)];
    tree.tables[0] = first != nullptr ? first->store().view() : NgramKernels::Table{};
    tree.seeds[0] = first != nullptr ? first->store().seed() : 0;
    tree.tables[1] = table_.store().view(), tree.seeds[1] = table_.store().seed();
    std::byte* memory = memory_.data() + place * tree_bytes();
    tree.level = reinterpret_cast<Parent*>(memory);
    tree.next = tree.level + nodes_;
    tree.places = reinterpret_cast<NgramKernels::Place*>(tree.next + nodes_);
    tree.keys = reinterpret_cast<uint64_t*>(tree.places + nodes_);
    tree.words = reinterpret_cast<uint32_t*>(tree.keys + nodes_ * 2 * order_);
    std::memset(tree.q_ids, 0xff, size_t(nodes_ * k_) * sizeof *tree.q_ids);
    std::memset(tree.q, 0, size_t(nodes_ * k_) * sizeof *tree.q);
    if (settings_.sample) draw_words(settings_.seeds[b], settings_.offsets[b], nodes_, tree.words);

    const int32_t* end = contexts_.end(b);
    tree.len = contexts_.length(b, order_);
    tree.tokens[0] = end[-1];
    tree.parents[0] = tree.first_child[0] = tree.next_sibling[0] = -1;
    tree.depths[0] = tree.slots[0] = 0;
    std::fill(tree.ancestors, tree.ancestors + shape_.words(), 0);
    tree.ancestors[0] = 1;
    if (shape_.child_count[0] > 0) {
      Parent& root = tree.level[tree.level_size++];
      root.node = 0, root.context = {};
      for (int i = tree.len; i > 0; --i) root.context.push(root.context, end[-i], order_);
    }
    return tree;
  }

  // How many lengths of context a level's nodes have.
  int known(const Tree& tree) const {
    return std::min(tree.len + tree.depth, order_) - table_.n_min() + 1;
  }

  void hash(Tree& tree) {
    const int n_min = table_.n_min(), longest = n_min + known(tree) - 1;
    for (int64_t i = 0; i < tree.level_size; ++i) {
      for (int t = 0; t < 2; ++t) {
        const NgramKernels::Table& table = tree.tables[t];
        if (table.keys == nullptr) continue;
        uint64_t* keys = tree.keys + (i * 2 + t) * order_ - n_min;
        uint64_t hash = hash_seed(tree.seeds[t]);
        for (int n = 1; n <= longest; ++n) {
          hash = hash_token(hash, tree.level[i].context[n - 1]);
          if (n < n_min) continue;
          keys[n] = hash;
          __builtin_prefetch(table.keys + (hash & table.mask));
        }
      }
    }
  }

  // The longest context that a table knows; of equally long ones the first table's.
  void look_up(Tree& tree) {
    lookups += tree.level_size;
    kernels_.find(tree.tables, tree.keys, tree.level_size, order_, known(tree), tree.places);
  }

  void expand(Tree& tree) {
    tree.next_size = 0;
    for (int64_t i = 0; i < tree.level_size; ++i) {
      if (tree.places[i].slot != nullptr) expand(tree, tree.level[i], tree.places[i]);
    }
    std::swap(tree.level, tree.next);
    tree.level_size = tree.next_size;
    ++tree.depth;
  }

  void expand(Tree& tree, const Parent& parent, const NgramKernels::Place& place) {
    const auto slot = size_t(tree.slots[parent.node]);
    const int begin = shape_.child_begin[slot];
    const int64_t row = parent.node * k_;
    NgramKernels::Node node;
    node.place = place;
    node.k = k_, node.wanted = shape_.child_count[slot];
    node.sample = settings_.sample, node.inv_temp = settings_.inv_temp;
    node.words = tree.words + begin;
    // Rows are written in the order of nodes, so what stands behind one is free.
    node.q_ids = tree.q_ids + row, node.q = tree.q + row, node.room = nodes_ * k_ - row;
    const int count = kernels_.draw(node);
    if (count == 0) return;
    ++hits;
    tree.first_child[parent.node] = int32_t(tree.size);
    for (int i = 0; i < count; ++i) append(tree, parent, begin + i, node.tokens[i]);
    tree.next_sibling[tree.size - 1] = -1;
  }

  void append(Tree& tree, const Parent& parent, int32_t slot, int32_t token) {
    const int64_t node = tree.size++, words = shape_.words();
    tree.tokens[node] = token, tree.slots[node] = slot, tree.depths[node] = tree.depth + 1;
    tree.parents[node] = int32_t(parent.node);
    tree.first_child[node] = -1, tree.next_sibling[node] = int32_t(node + 1);
    int64_t *theirs = tree.ancestors + parent.node * words, *own = tree.ancestors + node * words;
    own[0] = theirs[0];
    if (words == 2) own[1] = theirs[1];  // a call of memcpy would be most of this function
    if (words > 2) std::memcpy(own, theirs, size_t(words) * sizeof *own);
    own[node / 64] = int64_t(uint64_t(own[node / 64]) | uint64_t(1) << (node % 64));
    if (shape_.child_count[size_t(slot)] == 0) return;
    Parent& next = tree.next[tree.next_size++];
    next.node = node;
    next.context.push(parent.context, token, order_);
  }

  void finish(const Tree& tree, int64_t b) {
    out_.sizes[b] = int32_t(tree.size);
    for (int32_t* array : {tree.tokens, tree.parents, tree.first_child, tree.next_sibling,
                           tree.depths, tree.slots}) {
      std::fill(array + tree.size, array + nodes_, -1);
    }
    const int64_t words = shape_.words();
    std::fill(tree.ancestors + tree.size * words, tree.ancestors + nodes_ * words, 0);
  }

  const NgramTable& table_;
  const Contexts& contexts_;
  const DraftTemplate& shape_;
  const std::vector<NgramTable*>& first_;
  const DraftSettings& settings_;
  const DraftArrays& out_;
  const NgramKernels& kernels_;
  const int order_, k_;
  const int64_t nodes_;
  Scratch memory_;
};

}  // namespace

void NgramTable::draft(const Contexts& contexts, const DraftTemplate& shape,
                       const std::vector<NgramTable*>& first, const DraftSettings& settings,
                       const DraftArrays& out, ParallelFor parallel) const {
  constexpr int64_t kFew = 8;  // sequences: done sooner than another thread wakes
  const auto range = [&](int64_t begin, int64_t end) {
    Filler filler(*this, contexts, shape, first, settings, out, std::min(kTogether, end - begin));
    for (int64_t b = begin; b < end; b += kTogether) filler.fill(b, std::min(b + kTogether, end));
    if (!store_->owned()) return;  // an op's argument, which drafts must not write
    NgramHeader& h = store_->header();
    std::atomic_ref<uint64_t>(h.lookups).fetch_add(uint64_t(filler.lookups));
    std::atomic_ref<uint64_t>(h.hits).fetch_add(uint64_t(filler.hits));
  };
  if (contexts.rows == 0) return;
  if (contexts.rows <= kFew) return range(0, contexts.rows);
  for_ranges(parallel, contexts.rows, range);
}

}  // namespace thrifty::drafting
