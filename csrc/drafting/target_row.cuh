// One row of logits as the distribution p that verification works with, by one warp: TargetRow of
// drafting/target_row.h, over the block masses that row_sums left.
#pragma once

#include "core/row_draws.cuh"
#include "core/row_measure.h"
#include "core/row_top_k.cuh"
#include "drafting/verify.h"

namespace thrifty::drafting::cuda {

using namespace thrifty::cuda;

// Coins of one position, by index, as on the CPU.
constexpr uint32_t kResidualCoin = 1u << 20;

// What a row's masses say: whether there is a law at all, its normaliser, the largest logit at T =
// 0.
struct TargetLaw {
  double log_mass = 0;
  int32_t best = -1;  // token of the largest logit, where it is wanted
  int32_t good = 0;   // no NaN, no +inf, some finite logit
};

// All rows, measured. The masses of what the filters leave change where tokens are drawn outside
// of others; the laws stay.
struct Target {
  RowsArgs rows;
  const BlockMass* all = nullptr;
  BlockMass* kept = nullptr;
  const float* max = nullptr;
  TargetLaw* laws = nullptr;  // [rows]
  bool greedy = false;        // the largest logit is wanted at any T
};

template <class T>
THRIFTY_DEVICE TargetLaw target_law(const Target& target, int64_t row) {
  const int64_t blocks = target.rows.blocks();
  const RowTotal all = row_total(target.all + row * blocks, blocks);
  const RowTotal total = row_total(target.kept + row * blocks, blocks);
  TargetLaw law{total.log(), -1, all.sum == all.sum && total.sum > 0};
  const RowReader<T> reader(target.rows, row);
  if (law.good && (reader.greedy || target.greedy)) {
    const Pick best = largest_kept(reader, target.max + row * blocks, blocks);
    law.best = int32_t(best.token);
    if (reader.greedy) law.log_mass = double(best.logit);
  }
  return law;
}

template <class T>
class TargetRow {
 public:
  THRIFTY_DEVICE TargetRow(const Target& target, int64_t row, const TargetLaw& law)
      : reader_(target.rows, row),
        blocks_(target.rows.blocks()),
        kept_(target.kept + row * blocks_),
        max_(target.max + row * blocks_),
        law_(law) {}
  THRIFTY_DEVICE TargetRow(const Target& target, int64_t row)
      : TargetRow(target, row, target.laws[row]) {}

  // If not, nothing else may be asked.
  THRIFTY_DEVICE bool good() const { return law_.good; }
  THRIFTY_DEVICE double log_mass() const { return law_.log_mass; }
  THRIFTY_DEVICE int32_t argmax() const { return law_.best; }
  THRIFTY_DEVICE int64_t blocks() const { return blocks_; }
  THRIFTY_DEVICE int64_t vocab() const { return reader_.view.vocab; }

  // 0 outside the vocabulary, whatever the id.
  THRIFTY_DEVICE double prob(int32_t id) const {
    if (id < 0 || id >= vocab()) return 0;
    if (reader_.greedy) return id == law_.best ? 1 : 0;
    return prob_of(to_float(load_readonly(reader_.view.logits + id)));
  }
  // Of a token with this logit, where T > 0.
  THRIFTY_DEVICE double prob_of(float logit) const {
    if (logit == -INFINITY || !(logit >= reader_.at_least)) return 0;
    return exp(double(logit) * reader_.log_scale() - law_.log_mass);
  }

  // p of a block's tokens from float32 weights, as the lane holds them.
  struct BlockProbs {
    Relative relative;
    uint32_t keep;
    float unit;
    int64_t best, block;  // at T = 0

    THRIFTY_DEVICE float of(const BlockValues& values, int i) const {
      if (best >= 0) return token_of(block, i) == best ? 1 : 0;
      return keep >> i & 1 ? relative.weight(values.value[i]) * unit : 0.0f;
    }
  };
  THRIFTY_DEVICE BlockProbs probs(const BlockValues& values, int64_t block) const {
    const uint32_t keep = reader_.keep(values, block);
    const Relative relative(block_max(values, keep), reader_.view.scale);
    const auto unit = float(exp(relative.exponent * kLog2 - law_.log_mass));
    return {relative, keep, unit, reader_.greedy ? int64_t(law_.best) : -1, block};
  }
  THRIFTY_DEVICE const RowView<T>& view() const { return reader_.view; }

  // A token drawn from p without `ids`; -1 where nothing is left. The row stays without them, and
  // `ids` must stay, too. All lanes call.
  THRIFTY_DEVICE int32_t draw_outside(const int32_t* ids, int64_t n, int64_t seed,
                                      int64_t position) const {
    if (reader_.greedy) {
      bool listed = false;
      for (int64_t i = lane_index(); i < n; i += kWarpSize) listed = listed || ids[i] == law_.best;
      return warp_any(listed) ? -1 : law_.best;
    }
    RowDraws<T> draws(reader_, kept_, blocks_);
    draws.remove_all(ids, n);
    const Uniforms random = uniforms(seed, position, Stream::kDraws, 0);
    return int32_t(draws.draw(random.u, random.v).token);
  }

  // The k most probable, padded with -1 and 0.
  THRIFTY_DEVICE void top(int64_t k, int32_t* ids, float* probs) const {
    const bool one = reader_.greedy;
    const TopKeys best = one ? TopKeys(1) : row_top_k(reader_, max_, blocks_, int(k));
    for (int rank = 0; rank < int(k); ++rank) {
      const uint64_t key = best.at(rank);
      const bool some = one ? rank == 0 : key != 0;
      if (lane_index() != rank % kWarpSize) continue;
      ids[rank] = !some ? -1 : one ? law_.best : int32_t(id_of(key));
      probs[rank] = !some ? 0 : one ? 1 : float(prob_of(logit_of(key)));
    }
  }

  // Their absence.
  static THRIFTY_DEVICE void no_top(int64_t k, int32_t* ids, float* probs) {
    for (int64_t rank = lane_index(); rank < k; rank += kWarpSize) ids[rank] = -1, probs[rank] = 0;
  }

 private:
  const RowReader<T> reader_;
  const int64_t blocks_;
  BlockMass* const kept_;
  const float* const max_;
  const TargetLaw law_;
};

}  // namespace thrifty::drafting::cuda
