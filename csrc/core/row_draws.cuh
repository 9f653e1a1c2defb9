// Draws from a row whose tokens become fewer, by one warp: RowMass::draw and remove of
// core/logits.h.
//
// The masses of the row's blocks lie in the caller's memory and so does the list of removed ids.
// Where a token goes, its block is summed anew over what is left, so that no mass is a difference.
#pragma once

#include "core/row_mass.cuh"

namespace thrifty::cuda {

template <class T>
class RowDraws {
 public:
  // `kept`: masses of the row's blocks, written where tokens are removed.
  THRIFTY_DEVICE RowDraws(const RowReader<T>& reader, BlockMass* kept, int64_t blocks)
      : reader_(reader), kept_(kept), blocks_(blocks), total_(row_total(kept, blocks)) {}

  THRIFTY_DEVICE const RowTotal& total() const { return total_; }

  // Tokens ids[0..count) go; ids outside the row, or that are not kept, change nothing. From now on
  // `ids` is the list of what is gone, so it must stay.
  THRIFTY_DEVICE void remove_all(const int32_t* ids, int64_t count) {
    removed_ = ids, count_ = count;
    for (int64_t i = 0; i < count; ++i) {
      if (ids[i] < 0 || ids[i] >= reader_.view.vocab) continue;
      const int64_t block = ids[i] / kLogitsBlock;
      bool seen = false;  // the block was summed for an earlier id
      for (int64_t j = lane_index(); j < i; j += kWarpSize) {
        seen = seen || (ids[j] >= 0 && ids[j] / kLogitsBlock == block);
      }
      if (!warp_any(seen)) sum_again(block);
    }
    total_ = row_total(kept_, blocks_);
  }

  // One more, which the caller has just put at the end of the list.
  THRIFTY_DEVICE void remove_next(const int32_t* ids) {
    removed_ = ids;
    const int32_t id = ids[count_++];
    sum_again(id / kLogitsBlock);
    total_ = row_total(kept_, blocks_);
  }

  // A token by its probability; u and v in [0, 1). None where nothing is left.
  THRIFTY_DEVICE Pick draw(double u, double v) const {
    const int64_t block = draw_block(kept_, blocks_, total_, u);
    if (block < 0) return {};
    const BlockValues values = load_block(reader_.view, block);
    return draw_in_block(values, reader_.view.scale, left(values, block), block, v);
  }

 private:
  THRIFTY_DEVICE uint32_t left(const BlockValues& values, int64_t block) const {
    uint32_t bits = reader_.keep(values, block);
    for (int64_t first = 0; first < count_; first += kWarpSize) {
      const int64_t at = first + lane_index();
      const int32_t id = at < count_ ? removed_[at] : -1;
      uint32_t here = warp_ballot(id >= 0 && id / kLogitsBlock == block);
      for (; here != 0; here &= here - 1) {
        bits &= ~token_bit(shfl(id, find_first_set(here) - 1), block);
      }
    }
    return bits;
  }

  THRIFTY_DEVICE void sum_again(int64_t block) {
    const BlockValues values = load_block(reader_.view, block);
    const BlockMass mass = kept_mass(values, reader_.view.scale, left(values, block));
    syncwarp();  // all lanes have read the masses that one of them writes now
    if (lane_index() == 0) kept_[block] = mass;
    syncwarp();
  }

  const RowReader<T>& reader_;
  BlockMass* const kept_;
  const int64_t blocks_;
  RowTotal total_;
  const int32_t* removed_ = nullptr;
  int64_t count_ = 0;
};

}  // namespace thrifty::cuda
