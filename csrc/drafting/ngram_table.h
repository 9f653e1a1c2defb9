// The n-gram table: for each context of n_min to n_max tokens the running mean of the k most
// probable next tokens.
//
//   update   P <- (1 - w) P + w P_new, w = 1 / (min(count, cap) + 1), the k largest stay
//   draft    children of a node drawn without replacement from q_i = p_i^(1/T) / sum p_j^(1/T)
//
// STAND (arXiv 2506.04708, section 3), generalised: contexts of any range of lengths, and q is
// handed out, since verification that knows q accepts more (docs/drafting.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "drafting/ngram_store.h"
#include "drafting/template.h"

namespace thrifty::drafting {

// Contexts: row i ends before tails + (i + 1) * stride and has length(i) tokens.
struct Contexts {
  const int32_t* tails = nullptr;
  int64_t rows = 0, stride = 0;
  const int32_t* lens = nullptr;  // [rows], or null: min(first_len + i * len_step, n_max)
  int64_t first_len = 0, len_step = 0;

  const int32_t* end(int64_t row) const { return tails + (row + 1) * stride; }
  int length(int64_t row, int n_max) const {
    const int64_t len = lens != nullptr ? lens[row] : first_len + row * len_step;
    return int(len < n_max ? len : n_max);
  }
};

// What came after each context; null probs: ids[rows, 1] with probability 1.
struct Followers {
  const int32_t* ids = nullptr;  // [rows, width], -1 pads
  const float* probs = nullptr;  // [rows, width], descending
  int64_t width = 1;
};

struct DraftSettings {
  bool sample = true;
  float inv_temp = 1;
  const int64_t* seeds = nullptr;    // [batch]
  const int64_t* offsets = nullptr;  // [batch]
};

// Results, allocated by the caller. T nodes, K = k, W = ceil(T / 64).
struct DraftArrays {
  int32_t *tokens, *parents, *first_child, *next_sibling, *depths, *slots;  // [batch, T]
  int64_t* ancestors;                                                       // [batch, T, W]
  int32_t* sizes;                                                           // [batch]
  int32_t* q_ids;                                                           // [batch, T, K]
  float* q;                                                                 // [batch, T, K]
};

class NgramTable {
 public:
  explicit NgramTable(const NgramOptions& options);        // throws std::invalid_argument
  explicit NgramTable(std::unique_ptr<NgramStore> store);  // of a checked file
  static NgramTable load(const std::string& path, int64_t vocab_size, const std::string* vocab);

  int k() const { return store_->k(); }
  int n_min() const { return n_min_; }
  int n_max() const { return n_max_; }
  const NgramHeader& header() const { return store_->header(); }
  const NgramStore& store() const { return *store_; }

  // Rows in order, with any number of threads: a bucket is always one thread's.
  void update(const Contexts& contexts, const Followers& followers, ParallelFor parallel);

  // `first`: empty, or a table (may be null) per sequence that is asked before this one.
  void draft(const Contexts& contexts, const DraftTemplate& shape,
             const std::vector<NgramTable*>& first, const DraftSettings& settings,
             const DraftArrays& out, ParallelFor parallel) const;

  // probs [rows, orders, width], counts [rows, orders].
  void probabilities(const Contexts& contexts, const int32_t* ids, int64_t width, float* probs,
                     int32_t* counts, ParallelFor parallel) const;

  void merge(const NgramTable& other);
  void clear() { store_->clear(); }
  void save(const std::string& path) const;

  // The region as it is, into `image` of store().bytes(), and a table of one; `borrow`: in that
  // memory itself, which the caller keeps.
  void copy_to(void* image) const;
  static NgramTable from_image(void* image, int64_t bytes, bool borrow);

 private:
  void update_part(const uint64_t* keys, const Contexts& contexts, const Followers& followers,
                   uint32_t age, int64_t part, int64_t parts);

  std::unique_ptr<NgramStore> store_;
  int n_min_, n_max_;
};

// Keys of the contexts of lengths n_min ... min(len, n_max) into keys[n - n_min], 0 for longer
// ones; token(age): the newest token has age 0.
template <class Token>
void context_keys(const NgramTable& table, const Token& token, int len, uint64_t* keys) {
  uint64_t hash = hash_seed(table.store().seed());
  for (int n = 1; n <= table.n_max(); ++n) {
    if (n <= len) hash = hash_token(hash, token(n - 1));
    if (n >= table.n_min()) keys[n - table.n_min()] = n <= len ? hash : 0;
  }
}
// Of the contexts that end before `end`.
inline void context_keys(const NgramTable& table, const int32_t* end, int len, uint64_t* keys) {
  context_keys(table, [end](int age) { return end[-1 - age]; }, len, keys);
}

}  // namespace thrifty::drafting
