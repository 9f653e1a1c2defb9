#include <algorithm>
#include <cstring>
#include <memory>

#include "attention/nodes.h"
#include "attention/tile_bwd.h"

namespace thrifty::attention {
namespace {

constexpr int64_t kMaxRanges = 16;  // of a node's tiles, each with sums of its own for the list

// T sums of a list's gradients: k [count, k_ld], v [count, v_ld], logw [count], var [count], with
// the slack that products need.
struct ListGrads {
  int64_t count, k_ld, v_ld, sum;
  Scratch data;

  ListGrads(int64_t count, int64_t k_ld, int64_t v_ld, int64_t sum)
      : count(count), k_ld(k_ld), v_ld(v_ld), sum(sum), data(bytes()) {
    std::memset(data.data(), 0, size_t(bytes()));
  }
  int64_t rows() const { return round_up(count, kTileColumns) + 32; }
  int64_t elements() const { return rows() * (k_ld + v_ld + 2); }
  int64_t bytes() const { return elements() * sum; }
  ColumnGrads from(int64_t entry) {
    std::byte* base = data.data();
    return {base + entry * k_ld * sum, base + (rows() * k_ld + entry * v_ld) * sum,
            base + (rows() * (k_ld + v_ld) + entry) * sum,
            base + (rows() * (k_ld + v_ld + 1) + entry) * sum};
  }
};

double number(const std::byte* at, int64_t sum) {
  return sum == 8 ? *reinterpret_cast<const double*>(at)
                  : double(*reinterpret_cast<const float*>(at));
}

// One query head. dq [nq, d] is its own, dk [nk, d] and dv [nk, dv] its key head's: sums, dense.
class Head {
 public:
  Head(const Hyper& hyper, const HeadGrads& head, int64_t index, std::byte* dq, std::byte* dk,
       std::byte* dv, GivenGrads* given, ParallelFor parallel)
      : hyper_(hyper),
        p_(hyper.problem),
        kit_(p_.dtype),
        head_(head),
        index_(index),
        dq_(dq),
        dk_(dk),
        dv_(dv),
        given_(given),
        parallel_(parallel) {}

  void run() {
    for_waves(hyper_, index_, 0, p_.nq, false, parallel_, [&](Wave& wave) {
      queries(wave);
      keys(wave);
    });
  }

 private:
  // dq of each tile, and the list's gradients per range of tiles.
  void queries(Wave& wave) {
    struct Range {
      NodeWork* work;
      size_t first, last;
      std::unique_ptr<ListGrads> list;
    };
    std::vector<Range> ranges;
    for (NodeWork& work : wave) {
      const size_t tiles = work.queries.tiles.size();
      // Leaves share nothing: one tile a range. The others by shape alone.
      const bool leaf = work.list.count == 0;
      const size_t count = leaf ? tiles : std::clamp<size_t>(tiles / 8, 1, kMaxRanges);
      for (size_t r = 0; r < count; ++r) {
        ranges.push_back({&work, r * tiles / count, (r + 1) * tiles / count, nullptr});
      }
    }
    const BackwardTile shape(p_);
    for_ranges(parallel_, int64_t(ranges.size()), [&](int64_t from, int64_t to) {
      BackwardTile tile(p_);
      for (int64_t r = from; r < to; ++r) {
        Range& range = ranges[size_t(r)];
        const NodeWork& work = *range.work;
        if (work.list.count > 0) {
          range.list =
              std::make_unique<ListGrads>(work.list.count, shape.k_ld(), shape.v_ld(), kit_.sum);
        }
        for (size_t t = range.first; t < range.last; ++t) {
          query_tile(tile, work, work.queries.tiles[t], range.list.get());
        }
      }
    });
    // The ranges of a node, added in their order to the first.
    for (size_t r = 0; r < ranges.size();) {
      Range& first = ranges[r++];
      for (; r < ranges.size() && ranges[r].work == first.work; ++r) {
        if (first.list == nullptr) continue;
        kit_.tile.add(first.list->elements(), 1, ranges[r].list->data.data(),
                      first.list->data.data());
      }
      if (first.list != nullptr) finish_list(*first.work, *first.list);
    }
  }

  void query_tile(BackwardTile& tile, const NodeWork& work, const QueryTile& cut, ListGrads* list) {
    const int32_t* begin = work.queries.begin.data() + cut.begin;
    const int32_t* end = work.queries.end.data() + cut.begin;
    tile.begin(head_, work.queries.rows.data() + cut.begin, cut.rows());
    for (int64_t at = cut.low / 16 * 16; at < cut.high; at += kTileColumns) {
      tile.load_keys(work.keys, at, std::min(kTileColumns, cut.high - at), true);
      tile.add_query_grads(begin, end);
    }
    for (int64_t b = 0; b < work.list.blocks(); ++b) {
      ColumnGrads grads = list->from(b * kTileColumns);
      if (!work.list.with_var) grads.var = nullptr;
      tile.add_list(work.list, b, begin, end, grads);
    }
    tile.save(dq_, p_.d);
  }

  // dk and dv of sorted keys, a block at a time: all tiles whose rows read some of them.
  void keys(Wave& wave) {
    struct Block {
      NodeWork* work;
      int64_t first;
    };
    std::vector<Block> blocks;
    for (NodeWork& work : wave) {
      for (int64_t at = 0; at < work.keys.sorted; at += kTileColumns) blocks.push_back({&work, at});
    }
    for_ranges(parallel_, int64_t(blocks.size()), [&](int64_t from, int64_t to) {
      BackwardTile tile(p_);
      const int64_t k_bytes = BackwardTile::kColumnRows * tile.k_ld() * kit_.sum;
      const int64_t v_bytes = BackwardTile::kColumnRows * tile.v_ld() * kit_.sum;
      Scratch dk(k_bytes), dv(v_bytes);
      for (int64_t b = from; b < to; ++b) {
        std::memset(dk.data(), 0, size_t(k_bytes)), std::memset(dv.data(), 0, size_t(v_bytes));
        const auto [work, first] = blocks[size_t(b)];
        const int64_t last = std::min(work->keys.sorted, first + kTileColumns);
        if (key_block(tile, *work, first, last, {dk.data(), dv.data(), nullptr, nullptr})) {
          for (int64_t i = 0; i < last - first; ++i) {
            const int64_t row = work->k_begin + work->keys.row(first + i);
            kit_.tile.add(p_.d, p_.scale, dk.data() + i * tile.k_ld() * kit_.sum, dk_row(row));
            kit_.tile.add(p_.dv, 1, dv.data() + i * tile.v_ld() * kit_.sum, dv_row(row));
          }
        }
      }
    });
  }

  bool key_block(BackwardTile& tile, const NodeWork& work, int64_t first, int64_t last,
                 ColumnGrads grads) {
    bool loaded = false;
    for (const QueryTile& cut : work.queries.tiles) {
      const int64_t step = tile.granularity();
      const int64_t from = std::max<int64_t>(0, cut.low - first) / step * step;
      const int64_t to = std::min(cut.high, last) - first;
      if (from >= to || cut.low >= last) continue;
      if (!loaded) tile.load_keys(work.keys, first, last - first, false);
      loaded = true;
      tile.begin(head_, work.queries.rows.data() + cut.begin, cut.rows());
      tile.add_key_grads(from, to, work.queries.begin.data() + cut.begin,
                         work.queries.end.data() + cut.begin, grads);
    }
    return loaded;
  }

  std::byte* dk_row(int64_t row) { return dk_ + row * p_.d * kit_.sum; }
  std::byte* dv_row(int64_t row) { return dv_ + row * p_.dv * kit_.sum; }

  // From a list to its keys: bucket means share their gradient among their keys.
  void finish_list(const NodeWork& work, ListGrads& list) {
    if (given_ != nullptr) return given_list(list);
    const NodeKeys& keys = work.keys;
    for_each(parallel_, keys.buckets, [&](int64_t c) { spread_mean(work, list, c); });
    for (int64_t i = 0; i < keys.kept + keys.sample_count; ++i) {
      const ColumnGrads grads = list.from(keys.buckets + i);
      const int64_t sorted = i < keys.kept ? keys.sorted + i : keys.samples[i - keys.kept];
      const int64_t row = work.k_begin + keys.row(sorted);
      kit_.tile.add(p_.d, p_.scale, grads.k, dk_row(row));
      kit_.tile.add(p_.dv, 1, grads.v, dv_row(row));
    }
  }

  // key = sum k / n, value = sum v / n, var = (sum |k|^2 / n - |key|^2) / D where that is positive:
  // dvar / dk_j = 2 (k_j - key) / (n D).
  void spread_mean(const NodeWork& work, ListGrads& list, int64_t c) {
    const NodeKeys& keys = work.keys;
    const int64_t begin = keys.offsets[c], end = keys.offsets[c + 1];
    if (begin == end) return;
    const double share = 1 / double(end - begin);
    const ColumnGrads grads = list.from(c);
    const bool spread = number(work.list.var.data() + c * kit_.sum, kit_.sum) > 0;
    const double dvar = spread ? number(grads.var, kit_.sum) * 2 * share / double(p_.d) : 0;
    Scratch mean(p_.d * kit_.sum);  // scale dkey / n - dvar key
    std::memset(mean.data(), 0, size_t(p_.d * kit_.sum));
    kit_.tile.add(p_.d, p_.scale * share, grads.k, mean.data());
    kit_.tile.add_operand(p_.d, -dvar, work.list.k.data() + c * work.list.k_ld * kit_.operand,
                          mean.data());
    for (int64_t at = begin; at < end; ++at) {
      const int64_t row = work.k_begin + keys.row(at);
      kit_.tile.add(p_.d, 1, mean.data(), dk_row(row));
      if (dvar != 0) {
        kit_.tile.add_stored(p_.d, dvar, keys.k.from(keys.row(at), kit_.size).data, dk_row(row));
      }
      kit_.tile.add(p_.dv, share, grads.v, dv_row(row));
    }
  }

  void given_list(ListGrads& list) {
    const int64_t first = p_.key_head_index(index_) * list.count;
    for (int64_t i = 0; i < list.count; ++i) {
      const ColumnGrads grads = list.from(i);
      kit_.tile.add(p_.d, p_.scale, grads.k, given_->k + (first + i) * p_.d * kit_.sum);
      kit_.tile.add(p_.dv, 1, grads.v, given_->v + (first + i) * p_.dv * kit_.sum);
    }
    const ColumnGrads grads = list.from(0);
    kit_.tile.add(list.count, 1, grads.logw, given_->logw + first * kit_.sum);
    kit_.tile.add(list.count, 1, grads.var, given_->var + first * kit_.sum);
  }

  const Hyper& hyper_;
  const Problem& p_;
  Kit kit_;
  const HeadGrads& head_;
  int64_t index_;
  std::byte *dq_, *dk_, *dv_;
  GivenGrads* given_;
  ParallelFor parallel_;
};

// delta = dout . out - dlse
void make_delta(const Problem& p, const Rows& dout, const std::byte* out, const std::byte* dlse,
                std::byte* delta, ParallelFor parallel) {
  const Kit kit = p.kit();
  for_ranges(parallel, p.nq, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      double value =
          kit.tile.dot_stored(p.dv, dout.from(i, kit.size).data, out + i * p.dv * kit.size);
      if (dlse != nullptr) value -= number(dlse + i * kit.sum, kit.sum);
      if (kit.sum == 8) {
        reinterpret_cast<double*>(delta)[i] = value;
      } else {
        reinterpret_cast<float*>(delta)[i] = float(value);
      }
    }
  });
}

// Sums in the gradient itself where its format is theirs, otherwise in scratch that is rounded
// once.
class Target {
 public:
  Target(const Kit& kit, int64_t elements)
      : kit_(kit), n_(elements), scratch_(direct() ? 0 : elements * kit.sum) {}
  std::byte* begin(std::byte* grad) {
    std::byte* sums = direct() ? grad : scratch_.data();
    if (n_ > 0) std::memset(sums, 0, size_t(n_ * kit_.sum));
    return sums;
  }
  void finish(std::byte* grad, ParallelFor parallel) {
    if (direct()) return;
    for_ranges(parallel, ceil_div(n_, kChunk), [&](int64_t first, int64_t last) {
      const int64_t from = first * kChunk, to = std::min(n_, last * kChunk);
      kit_.tile.narrow(to - from, scratch_.data() + from * kit_.sum, 1, grad + from * kit_.size);
    });
  }

 private:
  static constexpr int64_t kChunk = 4096;
  bool direct() const { return kit_.size == kit_.sum; }
  const Kit& kit_;
  int64_t n_;
  Scratch scratch_;
};

}  // namespace

void hyper_bwd(const Hyper& hyper, const BackwardArgs& args, ParallelFor parallel) {
  const Problem& p = hyper.problem;
  const Kit kit = p.kit();
  parallel = p.worth(parallel);
  Target dq(kit, p.nq * p.d), dk(kit, p.nk * p.d), dv(kit, p.nk * p.dv);
  Scratch delta(p.nq * kit.sum);
  for (int64_t key_head = 0; key_head < p.batch * p.k_heads; ++key_head) {
    std::byte* dk_out = args.dk + key_head * p.nk * p.d * kit.size;
    std::byte* dv_out = args.dv + key_head * p.nk * p.dv * kit.size;
    std::byte *dk_sums = dk.begin(dk_out), *dv_sums = dv.begin(dv_out);
    for (int64_t g = 0; g < p.group(); ++g) {
      const int64_t head = key_head / p.k_heads * p.q_heads + key_head % p.k_heads * p.group() + g;
      const Rows dout = args.dout.head(head / p.q_heads, head % p.q_heads, kit.size);
      const std::byte* dlse = args.dlse == nullptr ? nullptr : args.dlse + head * p.nq * kit.sum;
      make_delta(p, dout, args.out + head * p.nq * p.dv * kit.size, dlse, delta.data(), parallel);
      const HeadGrads grads{p.q_head(head), dout, args.lse + head * p.nq * kit.sum, delta.data()};
      std::byte* dq_out = args.dq + head * p.nq * p.d * kit.size;
      std::byte* dq_sums = dq.begin(dq_out);
      GivenGrads given = args.given;
      Head(hyper, grads, head, dq_sums, dk_sums, dv_sums,
           hyper.given.windows == nullptr ? nullptr : &given, parallel)
          .run();
      dq.finish(dq_out, parallel);
    }
    dk.finish(dk_out, parallel), dv.finish(dv_out, parallel);
  }
}

}  // namespace thrifty::attention
