// One tile of queries through the forward pass: windows, list, one online softmax.
#pragma once

#include "attention/tiles.h"

namespace thrifty::attention {

// Where the rows' running softmax lives between the nodes that they read: T acc [rows, ld], max and
// sum [rows], of the packed query rows from `first_row` on.
struct Running {
  std::byte *acc = nullptr, *max = nullptr, *sum = nullptr;
  int64_t ld = 0, first_row = 0;
};

class ForwardTile {
 public:
  explicit ForwardTile(const Problem& problem);

  // A tile's rows: loads their queries, starts their softmax.
  void begin(Rows q, const int32_t* rows, int64_t count);
  void load(const Running& running);
  void save(const Running& running);
  // Sorted keys [begin[i], end[i]) for row i, all in [low, high), in blocks that start at multiples
  // of kTileColumns.
  void windows(const NodeKeys& keys, int64_t low, int64_t high, const int32_t* begin,
               const int32_t* end);
  // The list, of which the rows' windows, given once more, hide what they hold.
  void list(const List& list, const int32_t* begin, const int32_t* end);
  // out[rows] = acc / sum, lse[rows] = max + log sum; 0 and -infinity for rows that saw nothing.
  void finish(std::byte* out, int64_t stride, std::byte* lse) const;

 private:
  void scores(int64_t columns, const void* panels);
  void softmax(ScoreBlock block, const int32_t* begin, const int32_t* end, int64_t columns);
  void add_values(int64_t columns, const void* panels);
  void load_rows(const NodeKeys& keys, Rows from, int64_t first, int64_t columns, int64_t width,
                 int64_t ld);

  const Problem& p_;
  Kit kit_;
  int64_t q_ld_, v_ld_, s_ld_, p_ld_, acc_ld_;
  Scratch q_, keys_, k_panels_, v_panels_, s_, p_scratch_, acc_, max_, sum_, q2_;
  const int32_t* rows_ = nullptr;
  int64_t count_ = 0;
  void* probabilities_;
  std::vector<int32_t> begin_, end_;
};

// out = acc / sum and lse of one row.
void finish_row(const Problem& problem, const std::byte* acc, const std::byte* max,
                const std::byte* sum, std::byte* out, std::byte* lse);

}  // namespace thrifty::attention
