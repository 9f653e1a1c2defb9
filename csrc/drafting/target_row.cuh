// One row of logits as the distribution p that verification works with, by one warp: TargetRow of
// drafting/target_row.h, over the block masses that row_sums left.
#pragma once

#include "core/row_mass.cuh"
#include "core/row_reader.cuh"
#include "drafting/verify_cuda.h"

namespace thrifty::drafting::cuda {

using namespace thrifty::cuda;

// The masses of all rows, [rows, blocks] each; `kept` is of what the filters leave, and a draw
// outside of some tokens replaces its entries.
struct Masses {
  RowsArgs rows;
  const BlockMass* all = nullptr;
  BlockMass* kept = nullptr;
  const float* max = nullptr;
};

// Coins of one position, by index, as on the CPU.
constexpr uint32_t kResidualCoin = 1u << 20;

template <class T>
class TargetRow {
 public:
  THRIFTY_DEVICE TargetRow(const Masses& masses, int64_t row)
      : reader_(masses.rows, row), blocks_(masses.rows.blocks()),
        kept_(masses.kept + row * blocks_), max_(masses.max + row * blocks_) {
    const RowTotal all = row_total(masses.all + row * blocks_, blocks_);
    total_ = row_total(kept_, blocks_);
    good_ = all.sum == all.sum && total_.sum > 0;
    log_mass_ = total_.log();
    if (good_ && reader_.greedy) best_ = largest();
  }

  THRIFTY_DEVICE bool good() const { return good_; }
  THRIFTY_DEVICE bool greedy() const { return reader_.greedy; }
  THRIFTY_DEVICE int32_t argmax() const { return int32_t(best_.token); }
  THRIFTY_DEVICE const RowReader<T>& reader() const { return reader_; }
  THRIFTY_DEVICE const float* max() const { return max_; }
  THRIFTY_DEVICE int64_t blocks() const { return blocks_; }
  // At T = 0 the largest logit itself.
  THRIFTY_DEVICE double log_mass() const { return greedy() ? double(best_.logit) : log_mass_; }

  // 0 outside the vocabulary, whatever the id.
  THRIFTY_DEVICE double prob(int32_t id) const {
    if (id < 0 || id >= reader_.view.vocab) return 0;
    if (greedy()) return id == best_.token ? 1 : 0;
    return prob_of(to_float(load_readonly(reader_.view.logits + id)));
  }
  THRIFTY_DEVICE double prob_of(float logit) const {
    if (logit == -INFINITY || !(logit >= reader_.at_least)) return 0;
    return exp(double(logit) * reader_.log_scale() - log_mass_);
  }

  // A token drawn from p; -1 when nothing is left.
  THRIFTY_DEVICE int32_t draw(int64_t seed, int64_t position) const {
    if (greedy()) return argmax();
    return draw_without<int32_t>(nullptr, 0, seed, position);
  }

  // From p without `ids`; the masses of the row stay without them. All lanes call.
  THRIFTY_DEVICE int32_t draw_outside(const int32_t* ids, int64_t n, int64_t seed,
                                      int64_t position) {
    if (greedy()) {
      bool listed = false;
      for (int64_t i = lane_index(); i < n; i += kWarpSize) listed |= ids[i] == argmax();
      return warp_any(listed) ? -1 : argmax();
    }
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id = ids[i], block = id / kLogitsBlock;
      if (id < 0 || id >= reader_.view.vocab) continue;
      bool seen = false;  // its block was summed for an earlier id
      for (int64_t j = lane_index(); j < i; j += kWarpSize) {
        seen |= ids[j] >= 0 && ids[j] / kLogitsBlock == block;
      }
      if (warp_any(seen)) continue;
      const BlockValues values = load_block(reader_.view, block);
      const BlockMass left =
          kept_mass(values, reader_.view.scale, keep_without(values, block, ids, n));
      if (lane_index() == 0) kept_[block] = left;
    }
    syncwarp();
    total_ = row_total(kept_, blocks_);
    return draw_without(ids, n, seed, position);
  }

 private:
  template <class Id>
  THRIFTY_DEVICE uint32_t keep_without(const BlockValues& values, int64_t block, const Id* ids,
                                       int64_t n) const {
    uint32_t keep = reader_.keep(values, block);
    for (int64_t i = 0; i < n; ++i) keep &= ~token_bit(ids[i], block);
    return keep;
  }

  template <class Id>
  THRIFTY_DEVICE int32_t draw_without(const Id* ids, int64_t n, int64_t seed,
                                      int64_t position) const {
    const Uniforms random = uniforms(seed, position, Stream::kDraws, 0);
    const int64_t block = draw_block(kept_, blocks_, total_, random.u);
    if (block < 0) return -1;
    const BlockValues values = load_block(reader_.view, block);
    return int32_t(draw_in_block(values, reader_.view.scale,
                                 keep_without(values, block, ids, n), block, random.v)
                       .token);
  }

  THRIFTY_DEVICE Pick largest() const { return largest_kept(reader_, max_, blocks_); }

  const RowReader<T> reader_;
  const int64_t blocks_;
  BlockMass* const kept_;
  const float* const max_;
  RowTotal total_;
  Pick best_;
  double log_mass_;
  bool good_;
};

}  // namespace thrifty::drafting::cuda
