// The k <= 64 largest kept logits of a row, best first, by one warp: larger logits, then smaller
// ids, as Ranked of core/logits.h.
//
// Each of the k largest block maxima is a token, so of 150 blocks about k are read again: they come
// by falling maximum, until no other block can have a token for the list.
#pragma once

#include "core/row_reader.cuh"

namespace thrifty::cuda {

// A logit and its id as one number that is larger for better tokens. 0 is none. Both zeros are one.
THRIFTY_DEVICE uint64_t rank_key(float logit, uint32_t id) {
  const uint32_t bits = float_as_bits(logit + 0.0f);
  const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
  return uint64_t(ordered) << 32 | uint32_t(~id);
}
THRIFTY_DEVICE uint32_t id_of(uint64_t key) { return ~uint32_t(key); }
THRIFTY_DEVICE float logit_of(uint64_t key) {
  const auto ordered = uint32_t(key >> 32);
  return bits_as_float(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

// The best keys so far: lane i holds those of rank i and 32 + i.
class TopKeys {
 public:
  THRIFTY_DEVICE explicit TopKeys(int k) : k_(k) {}

  THRIFTY_DEVICE uint64_t at(int rank) const {
    const uint64_t low = shfl(first_, rank % kWarpSize), high = shfl(second_, rank % kWarpSize);
    return rank < kWarpSize ? low : high;
  }
  THRIFTY_DEVICE uint64_t worst() const { return at(k_ - 1); }

  THRIFTY_DEVICE void insert(uint64_t key) {  // one key, the same in all lanes
    const uint64_t last = shfl(first_, kWarpSize - 1);
    const uint64_t carried = key > last ? last : key;
    place(first_, key);
    place(second_, carried);
  }

 private:
  static THRIFTY_DEVICE void place(uint64_t& mine, uint64_t key) {
    const uint64_t above = from_below(mine, 1);
    if (key > mine) mine = lane_index() > 0 && key > above ? above : key;
  }

  int k_;
  uint64_t first_ = 0, second_ = 0;
};

// `max`: of the row's blocks over at least the kept tokens. All lanes call.
template <class T>
THRIFTY_DEVICE TopKeys row_top_k(const RowReader<T>& reader, const float* max, int64_t blocks,
                                 int k) {
  TopKeys top(k);
  uint64_t previous = ~uint64_t(0);
  while (true) {
    // The best possible token of a block that was not read yet: blocks come by falling key.
    uint64_t next = 0;
    for (int64_t b = lane_index(); b < blocks; b += kWarpSize) {
      if (!(max[b] > -INFINITY) || !(max[b] >= reader.at_least)) continue;
      const uint64_t key = rank_key(max[b], uint32_t(b * kLogitsBlock));
      if (key < previous && key > next) next = key;
    }
    next = warp_max(next);
    if (next == 0 || next <= top.worst()) return top;
    previous = next;
    const int64_t block = int64_t(id_of(next)) / kLogitsBlock;
    const BlockValues values = load_block(reader.view, block);
    uint32_t left = reader.keep(values, block);
    while (true) {
      uint64_t best = 0;
#pragma unroll
      for (int i = 0; i < kLaneValues; ++i) {
        const uint64_t key = rank_key(values.value[i], uint32_t(token_of(block, i)));
        // NaN and -inf are passed over.
        if ((left >> i & 1) && values.value[i] > -INFINITY && key > best) best = key;
      }
      best = warp_max(best);
      if (best <= top.worst()) break;
      top.insert(best);
      left &= ~token_bit(int64_t(id_of(best)), block);
    }
  }
}

}  // namespace thrifty::cuda
