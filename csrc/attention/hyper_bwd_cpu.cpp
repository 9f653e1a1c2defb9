#include <algorithm>
#include <cstring>
#include <memory>

#include "attention/nodes.h"
#include "attention/tile_bwd.h"

namespace thrifty::attention {
namespace {

constexpr int64_t kRangeTiles = 8;    // most tiles that one task takes
constexpr int64_t kGroupRanges = 16;  // tasks between two additions of their sums: constant memory

// T sums of gradients: k [count, k_ld], v [count, v_ld], logw [count], var [count], with the slack
// that products need. `first`: the number of the first column.
struct ColumnSums {
  int64_t first, count, k_ld, v_ld, sum;
  Scratch data;

  ColumnSums(int64_t first, int64_t count, const BackwardTile& tile, int64_t sum)
      : first(first),
        count(count),
        k_ld(tile.k_ld()),
        v_ld(tile.v_ld()),
        sum(sum),
        data(elements() * sum) {
    std::memset(data.data(), 0, size_t(elements() * sum));
  }
  int64_t rows() const { return round_up(count, 16) + BackwardTile::kColumnSlack; }
  int64_t elements() const { return rows() * (k_ld + v_ld + 2); }
  ColumnGrads at(int64_t column) {
    std::byte* base = data.data();
    const int64_t i = column - first;
    return {base + i * k_ld * sum, base + (rows() * k_ld + i * v_ld) * sum,
            base + (rows() * (k_ld + v_ld) + i) * sum,
            base + (rows() * (k_ld + v_ld + 1) + i) * sum};
  }
};

// Tiles [first, last) of one work, and the sums of their gradients for the sorted keys
// [low, high) and for the list.
struct Range {
  size_t work, first, last;
  int64_t low, high;
  std::unique_ptr<ColumnSums> keys, list;
};

double number(const std::byte* at, int64_t sum) {
  return sum == 8 ? *reinterpret_cast<const double*>(at)
                  : double(*reinterpret_cast<const float*>(at));
}

// By shape alone: few tiles make short ranges, so that there is work for every thread.
std::vector<Range> cut(const Wave& wave) {
  size_t tiles = 0;
  for (const NodeWork& work : wave) tiles += work.queries.tiles.size();
  const auto most = size_t(std::clamp<int64_t>(int64_t(tiles) / 8, 2, kRangeTiles));
  std::vector<Range> ranges;
  for (size_t w = 0; w < wave.size(); ++w) {
    const std::vector<QueryTile>& all = wave[w].queries.tiles;
    const size_t count = (all.size() + most - 1) / most;
    for (size_t r = 0; r < count; ++r) {
      Range range{w, r * all.size() / count, (r + 1) * all.size() / count, 0, 0, {}, {}};
      range.low = wave[w].keys.sorted;
      for (size_t t = range.first; t < range.last; ++t) {
        if (all[t].low >= all[t].high) continue;  // sees the list alone
        range.low = std::min(range.low, all[t].low), range.high = std::max(range.high, all[t].high);
      }
      range.low = std::min(range.low, range.high);
      ranges.push_back(std::move(range));
    }
  }
  return ranges;
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
    for_waves(hyper_, index_, 0, p_.nq, false, parallel_, [&](Wave& wave) { pass(wave); });
  }

 private:
  // Ranges of tiles sum into memory of their own, which is added in their order: no two threads
  // share a sum, and the result does not depend on who took which range.
  void pass(Wave& wave) {
    std::vector<Range> ranges = cut(wave);
    std::vector<std::unique_ptr<ColumnSums>> lists(wave.size());
    for (size_t first = 0; first < ranges.size(); first += kGroupRanges) {
      const size_t last = std::min(ranges.size(), first + kGroupRanges);
      for_turns(
          parallel_, int64_t(last - first), [&] { return BackwardTile(p_); },
          [&](BackwardTile& tile, int64_t i) {
            Range& range = ranges[first + size_t(i)];
            add_range(tile, wave[range.work], range);
          });
      add_keys(wave, ranges, first, last);
      for (size_t r = first; r < last; ++r) {
        std::unique_ptr<ColumnSums>&sum = lists[ranges[r].work], &part = ranges[r].list;
        if (sum != nullptr && part != nullptr) {
          kit_.tile.add(sum->elements(), 1, part->data.data(), sum->data.data());
          part.reset();
        } else if (part != nullptr) {
          sum = std::move(part);
        }
      }
    }
    for (size_t w = 0; w < wave.size(); ++w) {
      if (lists[w] != nullptr) finish_list(wave[w], *lists[w]);
    }
  }

  // Columns are loaded once for all tiles of the range.
  void add_range(BackwardTile& tile, const NodeWork& work, Range& range) {
    const int64_t tile_bytes = kTileRows * tile.k_ld() * kit_.sum, q2_bytes = kTileRows * kit_.sum;
    const auto tiles = int64_t(range.last - range.first);
    Scratch rows(tiles * (tile_bytes + q2_bytes));
    std::memset(rows.data(), 0, size_t(tiles * (tile_bytes + q2_bytes)));
    const auto cut_at = [&](int64_t t) -> const QueryTile& {
      return work.queries.tiles[range.first + size_t(t)];
    };
    const auto numbers = [&](int64_t t) { return work.queries.rows.data() + cut_at(t).begin; };
    const auto grads = [&](int64_t t) {
      return RowGrads{rows.data() + t * tile_bytes,
                      rows.data() + tiles * tile_bytes + t * q2_bytes};
    };
    const auto add = [&](int64_t t, int64_t from, int64_t to, ColumnGrads columns) {
      const int64_t at = cut_at(t).begin;
      tile.begin(head_, numbers(t), cut_at(t).rows());
      tile.add(from, to, work.queries.begin.data() + at, work.queries.end.data() + at, columns,
               grads(t));
    };
    range.keys = std::make_unique<ColumnSums>(range.low, range.high - range.low, tile, kit_.sum);
    for (int64_t at = range.low; at < range.high; at += kTileColumns) {
      const int64_t columns = std::min(kTileColumns, range.high - at), step = tile.granularity();
      bool loaded = false;
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t from = std::max<int64_t>(0, cut_at(t).low - at) / step * step;
        const int64_t to = std::min(cut_at(t).high - at, columns);
        if (from >= to || cut_at(t).low >= cut_at(t).high) continue;
        if (!loaded) tile.load_keys(work.keys, at, columns);
        loaded = true;
        const ColumnGrads sums = range.keys->at(at + from);
        add(t, from, to, {sums.k, sums.v, nullptr, nullptr});
      }
    }
    if (work.list.count > 0) {
      range.list = std::make_unique<ColumnSums>(0, work.list.count, tile, kit_.sum);
    }
    for (int64_t b = 0; b < work.list.blocks(); ++b) {
      tile.load_list(work.list, b);
      ColumnGrads sums = range.list->at(b * kTileColumns);
      if (!work.list.with_var) sums.var = nullptr;
      for (int64_t t = 0; t < tiles; ++t) add(t, 0, work.list.columns(b), sums);
    }
    for (int64_t t = 0; t < tiles; ++t)
      tile.save(head_, numbers(t), cut_at(t).rows(), grads(t), dq_);
  }

  // dk and dv of the sorted keys of ranges [first, last), each key by its own task.
  void add_keys(const Wave& wave, std::vector<Range>& ranges, size_t first, size_t last) {
    struct Chunk {
      size_t first, last;  // ranges of one work
      int64_t low, high;
    };
    std::vector<Chunk> chunks;
    for (size_t r = first, end = first; r < last; r = end) {
      int64_t low = ranges[r].low, high = ranges[r].high;
      for (; end < last && ranges[end].work == ranges[r].work; ++end) {
        low = std::min(low, ranges[end].low), high = std::max(high, ranges[end].high);
      }
      for (; low < high; low += kTileColumns) {
        chunks.push_back({r, end, low, std::min(high, low + kTileColumns)});
      }
    }
    for_each(parallel_, int64_t(chunks.size()), [&](int64_t i) {
      const Chunk& chunk = chunks[size_t(i)];
      const NodeWork& work = wave[ranges[chunk.first].work];
      for (size_t r = chunk.first; r < chunk.last; ++r) {
        const int64_t high = std::min(chunk.high, ranges[r].high);
        for (int64_t key = std::max(chunk.low, ranges[r].low); key < high; ++key) {
          const ColumnGrads sums = ranges[r].keys->at(key);
          const int64_t row = work.k_begin + work.keys.row(key);
          kit_.tile.add(p_.d, p_.scale, sums.k, dk_row(row));
          kit_.tile.add(p_.dv, 1, sums.v, dv_row(row));
        }
      }
    });
    for (size_t r = first; r < last; ++r) ranges[r].keys.reset();
  }

  std::byte* dk_row(int64_t row) { return dk_ + row * p_.d * kit_.sum; }
  std::byte* dv_row(int64_t row) { return dv_ + row * p_.dv * kit_.sum; }

  // From a list to its keys: bucket means share their gradient among their keys.
  void finish_list(const NodeWork& work, ColumnSums& list) {
    if (given_ != nullptr) return given_list(list);
    const NodeKeys& keys = work.keys;
    for_each(parallel_, keys.buckets, [&](int64_t c) { spread_mean(work, list, c); });
    for (int64_t i = 0; i < keys.kept + keys.sample_count; ++i) {
      const ColumnGrads grads = list.at(keys.buckets + i);
      const int64_t sorted = i < keys.kept ? keys.sorted + i : keys.samples[i - keys.kept];
      const int64_t row = work.k_begin + keys.row(sorted);
      kit_.tile.add(p_.d, p_.scale, grads.k, dk_row(row));
      kit_.tile.add(p_.dv, 1, grads.v, dv_row(row));
    }
  }

  // key = sum k / n, value = sum v / n, var = (sum |k|^2 / n - |key|^2) / D where that is positive:
  // dvar / dk_j = 2 (k_j - key) / (n D).
  void spread_mean(const NodeWork& work, ColumnSums& list, int64_t c) {
    const NodeKeys& keys = work.keys;
    const int64_t begin = keys.offsets[c], end = keys.offsets[c + 1];
    if (begin == end) return;
    const double share = 1 / double(end - begin);
    const ColumnGrads grads = list.at(c);
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

  void given_list(ColumnSums& list) {
    const int64_t first = p_.key_head_index(index_) * list.count;
    for (int64_t i = 0; i < list.count; ++i) {
      const ColumnGrads grads = list.at(i);
      kit_.tile.add(p_.d, p_.scale, grads.k, given_->k + (first + i) * p_.d * kit_.sum);
      kit_.tile.add(p_.dv, 1, grads.v, given_->v + (first + i) * p_.dv * kit_.sum);
    }
    const ColumnGrads grads = list.at(0);
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
