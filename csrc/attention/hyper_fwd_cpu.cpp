#include <cstring>
#include <utility>

#include "attention/nodes.h"
#include "attention/tile_fwd.h"

namespace thrifty::attention {
namespace {

// One query head. Rows whose leaf and nodes are done one after the other keep their sums in the
// output itself where its format is that of sums, otherwise in scratch for a group of rows at a
// time: a sixth of them, 44 bytes a row at D = 64.
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
    if (layout_.leaves.empty() || layout_.nodes.empty()) {  // nothing is read twice
      leaves(0, p_.nq, nullptr);
      nodes(0, p_.nq, nullptr);
      return;
    }
    constexpr int64_t kMinGroup = 4096;
    const bool direct = kit_.size == kit_.sum;
    const int64_t rows = direct ? p_.nq : std::max(kMinGroup, ceil_div(p_.nq, 6));
    const int64_t group = std::min(rows, p_.nq);
    Scratch acc(direct ? 64 : group * p_.dv * kit_.sum), state(2 * group * kit_.sum);
    for (int64_t at = 0; at < p_.nq; at += group) {
      const int64_t end = std::min(p_.nq, at + group);
      const Running running{direct ? out_ : acc.data(), state.data(),
                            state.data() + group * kit_.sum, p_.dv, at};
      leaves(at, end, &running);
      nodes(at, end, &running);
      finish(at, end, running);
    }
  }

 private:
  void leaves(int64_t q_begin, int64_t q_end, const Running* running) {
    std::vector<std::pair<const Leaf*, int64_t>> tiles;
    for (const Leaf& leaf : layout_.leaves) {
      const int64_t end = std::min(q_end, leaf.q_end);
      for (int64_t at = std::max(q_begin, leaf.q_begin); at < end; at += kTileRows) {
        tiles.push_back({&leaf, at});
      }
    }
    for_ranges(parallel_, int64_t(tiles.size()), [&](int64_t first, int64_t last) {
      ForwardTile tile(p_);
      std::vector<int32_t> rows(kTileRows), begin(kTileRows, 0), end(kTileRows);
      for (int64_t t = first; t < last; ++t) {
        const auto [leaf, at] = tiles[size_t(t)];
        const int64_t count = std::min({kTileRows, leaf->q_end - at, q_end - at});
        const int64_t keys = leaf->k_end - leaf->k_begin;
        for (int64_t i = 0; i < count; ++i) {
          rows[size_t(i)] = int32_t(at + i);
          end[size_t(i)] = int32_t(
              std::clamp<int64_t>(at + i + leaf->diagonal + 1 - leaf->k_begin, 0, keys));
        }
        NodeKeys own{};
        own.k = p_.key_head(p_.k, head_).from(leaf->k_begin, kit_.size);
        own.v = p_.key_head(p_.v, head_).from(leaf->k_begin, kit_.size);
        tile.begin(p_.q_head(head_), rows.data(), count);
        tile.windows(own, begin.data(), end.data());
        if (running != nullptr) {
          tile.save(*running);
        } else {
          tile.finish(out_, p_.dv, lse_);
        }
      }
    });
  }

  void nodes(int64_t q_begin, int64_t q_end, const Running* running) {
    for_waves(hyper_, q_begin, q_end, [&](int64_t first, int64_t last) {
      std::vector<NodeWork> wave =
          make_nodes(hyper_, head_, first, last, q_begin, q_end, parallel_);
      std::vector<std::pair<NodeWork*, int64_t>> tiles;
      for (NodeWork& work : wave) {
        for (size_t t = 0; t < work.queries.tiles.size(); ++t) tiles.push_back({&work, int64_t(t)});
      }
      for_ranges(parallel_, int64_t(tiles.size()), [&](int64_t from, int64_t to) {
        ForwardTile tile(p_);
        std::vector<int32_t> begin(kTileRows), end(kTileRows);
        for (int64_t t = from; t < to; ++t) {
          NodeWork& work = *tiles[size_t(t)].first;
          const WindowedQueries& queries = work.queries;
          const Tile cut = queries.tiles[size_t(tiles[size_t(t)].second)];
          const int64_t count = cut.end - cut.begin;
          const int32_t* window = queries.windows.data() + cut.begin;
          for (int64_t i = 0; i < count; ++i) {
            begin[size_t(i)] = queries.bounds.begin[size_t(window[i])];
            end[size_t(i)] = queries.bounds.end[size_t(window[i])];
          }
          tile.begin(p_.q_head(head_), queries.rows.data() + cut.begin, count);
          if (running != nullptr) tile.load(*running);
          tile.windows(work.keys, begin.data(), end.data());
          tile.list(work.list, begin.data(), end.data());
          if (running != nullptr) {
            tile.save(*running);
          } else {
            tile.finish(out_, p_.dv, lse_);
          }
        }
      });
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
  for (int64_t head = 0; head < hyper.problem.heads(); ++head) {
    Head(hyper, head, out, lse, parallel).run();
  }
  clear_unseen(hyper, out, lse);
}

}  // namespace thrifty::attention
