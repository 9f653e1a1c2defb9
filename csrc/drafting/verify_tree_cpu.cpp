// verify_tree on the CPU: only the rows on the accepted path are read, one after the other, unless
// statistics of all nodes are wanted.
#include <algorithm>
#include <vector>

#include "drafting/residual.h"

namespace thrifty::drafting {
namespace {

class Walker {
 public:
  Walker(const VerifyTree& call, const VerifyOut& out) : call_(call), out_(out) {}

  void walk(int64_t b, ParallelFor parallel) {
    begin(b);
    out_.status[b] = usable() ? kGood : kBadDraft;
    int32_t node = 0;
    for (int64_t depth = 0; out_.status[b] == kGood; ++depth) {
      if (!row_.open(call_.logits, b, node, call_.settings, b, parallel)) {
        out_.status[b] = kBadLogits;
        break;
      }
      out_.path[b * width_ + depth] = node;
      if (!call_.all_rows) {
        const int64_t at = (b * width_ + depth) * call_.k;
        row_.top(call_.k, out_.topk_ids + at, out_.topk_probs + at);
      }
      const int64_t position = offset_ + depth;
      int32_t child = -1;
      const int32_t token = call_.rule == Rule::kRecursive && depth < call_.max_depth
                                ? recursive(node, position, child)
                                : matching(node, position, child, depth < call_.max_depth);
      out_.tokens[b * width_ + depth] = token;
      out_.lengths[b] = int32_t(depth + 1);
      if (child < 0) return;
      node = child;
    }
    clear(b);  // a sequence that failed emits nothing
  }

 private:
  void begin(int64_t b) {
    b_ = b, width_ = call_.max_depth + 1;
    tokens_ = call_.tokens + b * call_.nodes;
    first_child_ = call_.first_child + b * call_.nodes;
    next_sibling_ = call_.next_sibling + b * call_.nodes;
    seed_ = call_.settings.seed != nullptr ? call_.settings.seed[b] : 0;
    offset_ = call_.settings.offset != nullptr ? call_.settings.offset[b] : 0;
    clear(b);
  }

  void clear(int64_t b) {
    out_.lengths[b] = 0;
    std::fill_n(out_.tokens + b * width_, width_, -1);
    std::fill_n(out_.path + b * width_, width_, -1);
    if (call_.all_rows) return;
    std::fill_n(out_.topk_ids + b * width_ * call_.k, width_ * call_.k, -1);
    std::fill_n(out_.topk_probs + b * width_ * call_.k, width_ * call_.k, 0.0f);
  }

  // Links lead forward, to nodes that are there, have a row and a token of the vocabulary; supports
  // are distributions over distinct ids.
  bool usable() const {
    int64_t size = 0;
    while (size < call_.nodes && tokens_[size] >= 0) ++size;
    if (size == 0 || size > call_.logits.rows) return false;
    for (int64_t i = size; i < call_.nodes; ++i) {
      if (tokens_[i] >= 0) return false;
    }
    const auto forward = [&](int32_t to, int64_t from) {
      return to == -1 || (to > from && to < size);
    };
    for (int64_t i = 0; i < size; ++i) {
      const bool drafted = i == 0 || tokens_[i] < call_.logits.vocab;
      if (!drafted || !forward(first_child_[i], i) || !forward(next_sibling_[i], i)) return false;
      if (call_.rule == Rule::kRecursive && !usable_support(i)) return false;
    }
    return true;
  }

  bool usable_support(int64_t node) const {
    const int32_t* ids = call_.q_ids + (b_ * call_.nodes + node) * call_.support;
    const float* q = call_.q + (b_ * call_.nodes + node) * call_.support;
    double sum = 0;
    for (int64_t i = 0; i < call_.support; ++i) {
      if (ids[i] < 0) continue;
      if (ids[i] >= call_.logits.vocab || !(q[i] >= 0)) return false;
      sum += double(q[i]);
      if (std::find(ids, ids + i, ids[i]) != ids + i) return false;
    }
    return sum == 0 ? first_child_[node] < 0 : sum > 0.99 && sum < 1.01;
  }

  // Rule (a). `child` is the node to go on from, -1 when a token was drawn.
  int32_t recursive(int32_t node, int64_t position, int32_t& child) {
    if (first_child_[node] < 0) return row_.draw(seed_, position);
    const int64_t at = (b_ * call_.nodes + node) * call_.support;
    residual_.start(row_, call_.q_ids + at, call_.q + at, call_.support);
    uint32_t coin = 0;
    for (int32_t c = first_child_[node]; c >= 0; c = next_sibling_[c]) {
      if (residual_.accept(tokens_[c], uniforms(seed_, position, Stream::kCoins, coin++).u)) {
        child = c;
        return tokens_[c];
      }
    }
    return residual_.draw(row_, seed_, position);
  }

  // Rules (b) and greedy: a token first, then the child that is it.
  int32_t matching(int32_t node, int64_t position, int32_t& child, bool deeper) {
    const int32_t token = call_.rule == Rule::kGreedy ? greedy() : row_.draw(seed_, position);
    for (int32_t c = first_child_[node]; deeper && c >= 0; c = next_sibling_[c]) {
      if (tokens_[c] == token) {
        child = c;
        break;
      }
    }
    return token;
  }

  int32_t greedy() {
    int32_t id = -1;
    float prob = 0;
    row_.top(1, &id, &prob);
    return id;
  }

  const VerifyTree& call_;
  const VerifyOut& out_;
  TargetRow row_;
  Residual residual_;
  int64_t b_ = 0, width_ = 0, seed_ = 0, offset_ = 0;
  const int32_t *tokens_ = nullptr, *first_child_ = nullptr, *next_sibling_ = nullptr;
};

// The k largest of every valid node; a bad row is the walk's to report, if it comes there.
void top_of_all(const VerifyTree& call, const VerifyOut& out, ParallelFor parallel) {
  const int64_t rows = call.logits.rows;
  for_ranges(parallel, call.logits.batch * rows, [&](int64_t begin, int64_t end) {
    TargetRow row;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / rows, node = i % rows;
      int32_t* ids = out.topk_ids + i * call.k;
      float* probs = out.topk_probs + i * call.k;
      std::fill(ids, ids + call.k, -1);
      std::fill(probs, probs + call.k, 0.0f);
      const bool valid = node < call.nodes && call.tokens[b * call.nodes + node] >= 0;
      if (valid && row.open(call.logits, b, node, call.settings, b)) row.top(call.k, ids, probs);
    }
  });
}

}  // namespace

void verify_tree(const VerifyTree& call, const VerifyOut& out, ParallelFor parallel) {
  if (call.all_rows) top_of_all(call, out, parallel);
  constexpr int64_t kFew = 4;  // sequences: then all threads take one row's blocks
  if (call.logits.batch < kFew) {
    Walker walker(call, out);
    for (int64_t b = 0; b < call.logits.batch; ++b) walker.walk(b, parallel);
    return;
  }
  for_ranges(parallel, call.logits.batch, [&](int64_t begin, int64_t end) {
    Walker walker(call, out);
    for (int64_t b = begin; b < end; ++b) walker.walk(b, serial);
  });
}

}  // namespace thrifty::drafting
