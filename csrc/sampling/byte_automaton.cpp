// Subset construction over classes of bytes, removal of dead states, Hopcroft's minimisation
// ("An n log n algorithm for minimizing states in a finite automaton", 1971).
#include "sampling/byte_automaton.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace thrifty::sampling {
namespace {

using Subset = std::vector<int32_t>;  // of NFA states, ascending
constexpr int32_t kDead = -1;

struct SubsetHash {
  size_t operator()(const Subset& subset) const {
    uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
    for (const int32_t state : subset) hash = (hash ^ uint64_t(state)) * 0x100000001b3;
    return size_t(hash ^ hash >> 32);
  }
};

// Bytes that no edge tells apart share a class: a JSON pattern has about 20 of them.
struct Classes {
  std::array<int32_t, 256> of{};
  std::vector<int> representative;

  explicit Classes(const Nfa& nfa) {
    std::array<bool, 257> starts{};
    starts[0] = true;
    for (int64_t e = 0; e < nfa.byte_edges; ++e) {
      starts[size_t(nfa.bytes[4 * e + 1])] = starts[size_t(nfa.bytes[4 * e + 2]) + 1] = true;
    }
    for (int byte = 0; byte < 256; ++byte) {
      if (starts[size_t(byte)]) representative.push_back(byte);
      of[size_t(byte)] = int32_t(representative.size()) - 1;
    }
  }
  int64_t count() const { return int64_t(representative.size()); }
};

// Edges sorted by the state they leave.
class Edges {
 public:
  Edges(const int32_t* rows, int64_t count, int width, int64_t states)
      : width_(width), first_(size_t(states) + 1), rows_(size_t(count * width)) {
    for (int64_t e = 0; e < count; ++e) ++first_[size_t(rows[e * width]) + 1];
    for (size_t s = 0; s < size_t(states); ++s) first_[s + 1] += first_[s];
    std::vector<int64_t> place(first_.begin(), first_.end() - 1);
    for (int64_t e = 0; e < count; ++e) {
      const int64_t to = place[size_t(rows[e * width])]++;
      std::copy_n(rows + e * width, width, rows_.begin() + to * width);
    }
  }
  template <class Body>
  void each(int32_t state, const Body& body) const {
    for (int64_t e = first_[size_t(state)]; e < first_[size_t(state) + 1]; ++e) {
      body(rows_.data() + e * width_);
    }
  }

 private:
  int64_t width_;
  std::vector<int64_t> first_;
  std::vector<int32_t> rows_;
};

// The automaton over classes, complete: state `dead` is one of its states.
struct Table {
  int64_t classes = 0;
  std::vector<int32_t> next;  // [states, classes]
  std::vector<uint8_t> accepting;

  int64_t states() const { return int64_t(accepting.size()); }
  int32_t to(int64_t state, int64_t c) const { return next[size_t(state * classes + c)]; }
};

class SubsetConstruction {
 public:
  SubsetConstruction(const Nfa& nfa, const Classes& classes, int64_t max_states)
      : nfa_(nfa),
        classes_(classes),
        max_states_(max_states),
        bytes_(nfa.bytes, nfa.byte_edges, 4, nfa.states),
        glue_(nfa.glue, nfa.glue_edges, 3, nfa.states),
        mark_(size_t(nfa.states)) {}

  // State 0 is the start, reached by nothing else: only there does "at start" hold.
  Table run() {
    table_.classes = classes_.count();
    Subset start = closure({0}, true, false);
    add(std::move(start), true);
    std::vector<Subset> reached(size_t(classes_.count()));
    for (size_t state = 0; state < subsets_.size(); ++state) {
      for (Subset& subset : reached) subset.clear();
      for (const int32_t s : *subsets_[state]) {
        bytes_.each(s, [&](const int32_t* edge) {
          const int32_t last = classes_.of[size_t(edge[2])];
          for (int32_t c = classes_.of[size_t(edge[1])]; c <= last; ++c) {
            reached[size_t(c)].push_back(edge[3]);
          }
        });
      }
      for (int64_t c = 0; c < classes_.count(); ++c) {
        Subset& from = reached[size_t(c)];
        const int32_t to = from.empty() ? kDead : find(closure(std::move(from), false, false));
        from = {};
        table_.next[state * size_t(classes_.count()) + size_t(c)] = to;
      }
    }
    return std::move(table_);
  }

 private:
  Subset closure(Subset seeds, bool at_start, bool at_end) {
    ++stamp_;
    Subset all;
    const auto visit = [&](int32_t s) {
      if (mark_[size_t(s)] == stamp_) return;
      mark_[size_t(s)] = stamp_;
      all.push_back(s);
    };
    for (const int32_t s : seeds) visit(s);
    for (size_t i = 0; i < all.size(); ++i) {
      glue_.each(all[i], [&](const int32_t* edge) {
        const Glue when = Glue(edge[2]);
        if (when == Glue::kAlways || (when == Glue::kAtStart && at_start) ||
            (when == Glue::kAtEnd && at_end)) {
          visit(edge[1]);
        }
      });
    }
    std::sort(all.begin(), all.end());
    return all;
  }

  int32_t find(Subset subset) {
    const auto found = number_.find(subset);
    return found != number_.end() ? found->second : add(std::move(subset), false);
  }

  int32_t add(Subset subset, bool is_start) {
    const int64_t number = table_.states();
    THRIFTY_CHECK(number < max_states_, "from_regex: pattern: expected an automaton of at most ",
                  max_states_, " states, got more");
    const Subset at_end = closure(subset, is_start, true);
    const bool accepts = std::binary_search(at_end.begin(), at_end.end(), nfa_.accept);
    table_.accepting.push_back(accepts);
    table_.next.resize(table_.next.size() + size_t(classes_.count()), kDead);
    if (is_start) {
      start_ = std::move(subset);
      subsets_.push_back(&start_);
    } else {
      subsets_.push_back(&number_.emplace(std::move(subset), int32_t(number)).first->first);
    }
    return int32_t(number);
  }

  const Nfa& nfa_;
  const Classes& classes_;
  const int64_t max_states_;
  const Edges bytes_, glue_;
  std::vector<int64_t> mark_;
  int64_t stamp_ = 0;
  Table table_;
  Subset start_;
  std::unordered_map<Subset, int32_t, SubsetHash> number_;  // its keys never move
  std::vector<const Subset*> subsets_;
};

// Transitions to where `state` is reached from, by class.
struct Inverse {
  std::vector<int64_t> first;  // [classes * states + 1]
  std::vector<int32_t> from;

  explicit Inverse(const Table& table) : first(size_t(table.classes * table.states()) + 1) {
    const int64_t n = table.states();
    const auto slot = [&](int64_t c, int32_t to) { return size_t(c * n + to); };
    for (int64_t s = 0; s < n; ++s) {
      for (int64_t c = 0; c < table.classes; ++c) ++first[slot(c, table.to(s, c)) + 1];
    }
    for (size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    from.resize(size_t(n * table.classes));
    std::vector<int64_t> place(first.begin(), first.end() - 1);
    for (int64_t s = 0; s < n; ++s) {
      for (int64_t c = 0; c < table.classes; ++c) {
        from[size_t(place[slot(c, table.to(s, c))]++)] = int32_t(s);
      }
    }
  }
};

// States that cannot reach acceptance become one, the last: kDead and they are the same to Hopcroft.
void complete(Table& table) {
  const int32_t sink = int32_t(table.states());
  for (int32_t& to : table.next) to = to == kDead ? sink : to;
  table.next.insert(table.next.end(), size_t(table.classes), sink);
  table.accepting.push_back(0);
}

// A partition of 0 .. n-1 whose blocks can be split.
class Partition {
 public:
  explicit Partition(int64_t n) : items_(size_t(n)), place_(size_t(n)), block_(size_t(n)) {
    for (size_t i = 0; i < size_t(n); ++i) items_[i] = int32_t(i), place_[i] = int64_t(i);
    blocks_.push_back({0, n, 0});
  }
  int64_t count() const { return int64_t(blocks_.size()); }
  int32_t block(int32_t item) const { return block_[size_t(item)]; }
  int64_t size(int32_t b) const { return blocks_[size_t(b)].end - blocks_[size_t(b)].begin; }
  Subset members(int32_t b) const {
    return {items_.begin() + blocks_[size_t(b)].begin, items_.begin() + blocks_[size_t(b)].end};
  }
  // Moves an item to the marked front of its block.
  void mark(int32_t item, Subset& touched) {
    Block& b = blocks_[size_t(block(item))];
    const int64_t at = place_[size_t(item)], to = b.begin + b.marked;
    if (at < to) return;  // marked before
    if (b.marked++ == 0) touched.push_back(block(item));
    std::swap(items_[size_t(at)], items_[size_t(to)]);
    place_[size_t(items_[size_t(at)])] = at, place_[size_t(items_[size_t(to)])] = to;
  }
  // Cuts the marked front off; the new block's number, or -1 when all or none was marked.
  int32_t split(int32_t b) {
    const int64_t marked = std::exchange(blocks_[size_t(b)].marked, 0);
    if (marked == 0 || marked == size(b)) return -1;
    const int32_t fresh = int32_t(blocks_.size());
    const int64_t begin = blocks_[size_t(b)].begin;
    blocks_[size_t(b)].begin += marked;
    blocks_.push_back({begin, begin + marked, 0});
    for (int64_t i = begin; i < begin + marked; ++i) block_[size_t(items_[size_t(i)])] = fresh;
    return fresh;
  }

 private:
  struct Block {
    int64_t begin, end, marked;
  };
  std::vector<int32_t> items_;
  std::vector<int64_t> place_;
  std::vector<int32_t> block_;
  std::vector<Block> blocks_;
};

Partition equivalent_states(const Table& table) {
  const int64_t n = table.states();
  const Inverse inverse(table);
  Partition partition(n);
  Subset touched;
  for (int64_t s = 0; s < n; ++s) {
    if (table.accepting[size_t(s)]) partition.mark(int32_t(s), touched);
  }
  std::vector<int32_t> work{0};
  std::vector<uint8_t> waiting{1};
  const auto split = [&](int32_t b) {
    const int32_t fresh = partition.split(b);
    if (fresh < 0) return;
    waiting.push_back(0);
    const int32_t smaller = partition.size(fresh) < partition.size(b) ? fresh : b;
    const int32_t next = waiting[size_t(b)] ? fresh : smaller;
    waiting[size_t(next)] = 1;
    work.push_back(next);
  };
  split(0);
  while (!work.empty()) {
    const int32_t b = work.back();
    work.pop_back();
    waiting[size_t(b)] = 0;
    const Subset splitter = partition.members(b);
    for (int64_t c = 0; c < table.classes; ++c) {
      touched.clear();
      for (const int32_t s : splitter) {
        const size_t slot = size_t(c * n + s);
        for (int64_t e = inverse.first[slot]; e < inverse.first[slot + 1]; ++e) {
          partition.mark(inverse.from[size_t(e)], touched);
        }
      }
      for (const int32_t t : touched) split(t);
    }
  }
  return partition;
}

// One state per block that the start reaches, in order of discovery; the sink's block is kDead. The
// sink's block holds exactly the states without a way to acceptance, so this also trims.
Dfa quotient(const Table& table, const Classes& classes, const Partition& partition) {
  const int32_t sink = partition.block(int32_t(table.states() - 1));
  std::vector<int32_t> number(size_t(partition.count()), kDead), order;
  const auto number_of = [&](int32_t state) {
    const int32_t b = partition.block(state);
    if (b == sink) return kDead;
    if (number[size_t(b)] == kDead) {
      number[size_t(b)] = int32_t(order.size());
      order.push_back(state);
    }
    return number[size_t(b)];
  };
  Dfa dfa;
  number_of(0);
  for (size_t i = 0; i < order.size(); ++i) {
    std::vector<int32_t> row;
    for (int64_t c = 0; c < table.classes; ++c) row.push_back(number_of(table.to(order[i], c)));
    dfa.accepting.push_back(table.accepting[size_t(order[i])]);
    auto& next = dfa.next.emplace_back();
    for (size_t byte = 0; byte < 256; ++byte) next[byte] = row[size_t(classes.of[byte])];
  }
  return dfa;
}

}  // namespace

Nfa check_nfa(int64_t states, int32_t accept, const Array& bytes, const Array& glue) {
  constexpr const char* kOp = "byte_dfa";
  const auto check = [&](const char* name, const Array& a, int64_t width) {
    THRIFTY_CHECK(a.dtype == Dtype::kInt32 && a.ndim == 2 && a.shape[1] == width, kOp, ": ", name,
                  ": expected int32 of shape (E, ", width, "), got ", dtype_name(a.dtype), " ",
                  shape_text(a));
  };
  check("bytes", bytes, 4);
  check("glue", glue, 3);
  Nfa nfa{states, accept, static_cast<const int32_t*>(bytes.data), bytes.shape[0],
          static_cast<const int32_t*>(glue.data), glue.shape[0]};
  const auto is_state = [&](int32_t s) { return s >= 0 && s < states; };
  THRIFTY_CHECK(states < int64_t(1) << 31 && is_state(accept), kOp,
                ": accept: expected a state below ", states, ", got ", accept);
  for (int64_t e = 0; e < nfa.byte_edges; ++e) {
    const int32_t* edge = nfa.bytes + 4 * e;
    THRIFTY_CHECK(is_state(edge[0]) && is_state(edge[3]) && 0 <= edge[1] && edge[1] <= edge[2] &&
                      edge[2] < 256,
                  kOp, ": bytes: expected rows (from, low, high, to), got row ", e, " otherwise");
  }
  for (int64_t e = 0; e < nfa.glue_edges; ++e) {
    const int32_t* edge = nfa.glue + 3 * e;
    THRIFTY_CHECK(is_state(edge[0]) && is_state(edge[1]) && 0 <= edge[2] && edge[2] <= 2, kOp,
                  ": glue: expected rows (from, to, when), got row ", e, " otherwise");
  }
  return nfa;
}

Dfa determinise(const Nfa& nfa, int64_t max_states) {
  const Classes classes(nfa);
  Table table = SubsetConstruction(nfa, classes, max_states).run();
  complete(table);
  return quotient(table, classes, equivalent_states(table));
}

}  // namespace thrifty::sampling
