#include <cstring>

#include "attention/nodes.h"
#include "attention/tile_fwd.h"

namespace thrifty::attention {
namespace {

// One query head. Rows whose leaf and nodes are done one after the other keep their sums in the
// output itself where its format is that of sums, otherwise in scratch for a group of rows at a
// time: an eighth of them, 33 bytes a row at D = 64.
class Head {
 public:
  Head(const Hyper& hyper, int64_t head, std::byte* out, std::byte* lse, ParallelFor parallel)
      : hyper_(hyper),
        p_(hyper.problem),
        layout_(hyper.plan.layout),
        kit_(p_.dtype),
        head_(head),
        out_(out + head * p_.nq * p_.dv * kit_.size),
        lse_(lse + head * p_.nq * kit_.sum),
        parallel_(parallel) {}

  void run() {
    if (layout_.leaves.empty() || layout_.nodes.empty()) {  // no row is worked on twice
      for_waves(hyper_, head_, 0, p_.nq, true, parallel_, [&](Wave& wave) { work(wave, nullptr); });
      return;
    }
    constexpr int64_t kMinGroup = 2048;
    const bool direct = kit_.size == kit_.sum;
    const int64_t group = direct ? p_.nq : std::min(p_.nq, std::max(kMinGroup, ceil_div(p_.nq, 8)));
    Scratch acc(direct ? 0 : group * p_.dv * kit_.sum), state(2 * group * kit_.sum);
    for (int64_t at = 0; at < p_.nq; at += group) {
      const int64_t end = std::min(p_.nq, at + group);
      const Running running{direct ? out_ : acc.data(), state.data(),
                            state.data() + group * kit_.sum, p_.dv, at};
      bool first = true;  // leaves come first, and hold every query that a node has
      for_waves(hyper_, head_, at, end, true, parallel_, [&](Wave& wave) {
        first = first && wave.front().list.count == 0 && wave.front().keys.order == nullptr;
        work(wave, &running, first);
      });
      finish(at, end, running);
    }
  }

 private:
  void work(Wave& wave, const Running* running, bool first = true) {
    const std::vector<WaveTile> tiles = tiles_of(wave);
    for_turns(
        parallel_, int64_t(tiles.size()), [&] { return ForwardTile(p_); },
        [&](ForwardTile& tile, int64_t t) {
          const auto& [work, cut] = tiles[size_t(t)];
          const int32_t* begin = work->queries.begin.data() + cut.begin;
          const int32_t* end = work->queries.end.data() + cut.begin;
          tile.begin(p_.q_head(head_), work->queries.rows.data() + cut.begin, cut.rows());
          if (!first) tile.load(*running);
          tile.windows(work->keys, cut.low, cut.high, begin, end);
          tile.list(work->list, begin, end);
          if (running != nullptr) {
            tile.save(*running);
          } else {
            tile.finish(out_, p_.dv, lse_);
          }
        });
  }

  void finish(int64_t begin, int64_t end, const Running& r) {
    for_ranges(parallel_, end - begin, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        finish_row(p_, r.acc + i * r.ld * kit_.sum, r.max + i * kit_.sum, r.sum + i * kit_.sum,
                   out_ + (begin + i) * p_.dv * kit_.size, lse_ + (begin + i) * kit_.sum);
      }
    });
  }

  const Hyper& hyper_;
  const Problem& p_;
  const Layout& layout_;
  Kit kit_;
  int64_t head_;
  std::byte *out_, *lse_;
  ParallelFor parallel_;
};

// Queries that no leaf and no node holds: 0 and -infinity.
void clear_unseen(const Hyper& hyper, std::byte* out, std::byte* lse) {
  const Problem& p = hyper.problem;
  const Kit kit = p.kit();
  std::vector<char> seen(size_t(p.nq), 0);
  const auto mark = [&](int64_t begin, int64_t end) {
    std::fill(seen.begin() + begin, seen.begin() + end, 1);
  };
  for (const Leaf& leaf : hyper.plan.layout.leaves) mark(leaf.q_begin, leaf.q_end);
  for (const Node& node : hyper.plan.layout.nodes) mark(node.q_begin, node.q_end);
  const double none = -__builtin_inf();
  for (int64_t row = 0; row < p.nq; ++row) {
    for (int64_t head = 0; !seen[size_t(row)] && head < p.heads(); ++head) {
      const int64_t at = head * p.nq + row;
      std::memset(out + at * p.dv * kit.size, 0, size_t(p.dv * kit.size));
      if (kit.sum == 8) {
        reinterpret_cast<double*>(lse)[at] = none;
      } else {
        reinterpret_cast<float*>(lse)[at] = float(none);
      }
    }
  }
}

}  // namespace

void hyper_fwd(const Hyper& hyper, std::byte* out, std::byte* lse, ParallelFor parallel) {
  parallel = hyper.problem.worth(parallel);
  for (int64_t head = 0; head < hyper.problem.heads(); ++head) {
    Head(hyper, head, out, lse, parallel).run();
  }
  clear_unseen(hyper, out, lse);
}

}  // namespace thrifty::attention
