// The mass of a row from the masses of its blocks, and exact draws from it, by one warp.
//
// RowMass of core/logits.h on the device: the block masses live in memory of the caller, where
// `remove` replaces that of one block by a fresh sum over what is left there.
#pragma once

#include "core/row_reader.cuh"

namespace thrifty::cuda {

// sum * 2^exponent, added in double.
struct RowTotal {
  double exponent = -INFINITY, sum = 0;

  THRIFTY_DEVICE double log() const { return sum == 0 ? -INFINITY : exponent * kLog2 + ::log(sum); }
};

// The mass of a block relative to 2^exponent; 0 below 2^-1000 of that. A NaN goes through.
THRIFTY_DEVICE double relative_mass(const BlockMass& block, double exponent) {
  const double apart = block.exponent - exponent;
  if (apart < -1000 || block.sum == 0) return 0;
  if (apart != apart) return NAN;
  const uint64_t bits = uint64_t(int64_t(apart) + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof(power));
  return double(block.sum) * power;
}

THRIFTY_DEVICE RowTotal row_total(const BlockMass* masses, int64_t blocks) {
  RowTotal total;
  for (int64_t b = lane_index(); b < blocks; b += kWarpSize) {
    total.exponent = fmax(total.exponent, masses[b].exponent);
  }
  total.exponent = warp_max(total.exponent);
  for (int64_t b = lane_index(); b < blocks; b += kWarpSize) {
    total.sum += relative_mass(masses[b], total.exponent);
  }
  total.sum = warp_sum(total.sum);
  return total;
}

// The block in which u of the row's mass lies, u in [0, 1); -1 where there is no mass.
THRIFTY_DEVICE int64_t draw_block(const BlockMass* masses, int64_t blocks, const RowTotal& total,
                                  double u) {
  Search search(u * total.sum);
  const int64_t batches = (blocks + kWarpSize - 1) / kWarpSize;
  for (int batch = 0; batch < batches && !search.found(); ++batch) {
    const int64_t b = int64_t(batch) * kWarpSize + lane_index();
    search.offer(b < blocks ? relative_mass(masses[b], total.exponent) : 0, batch);
  }
  return search.batch() < 0 ? -1 : int64_t(search.batch()) * kWarpSize + search.lane();
}

// The largest kept logit, the smallest id among equal ones. `max`: of the row's blocks.
template <class T>
THRIFTY_DEVICE Pick largest_kept(const RowReader<T>& reader, const float* max, int64_t blocks) {
  float best = -INFINITY;
  int64_t block = INT64_MAX;
  for (int64_t b = lane_index(); b < blocks; b += kWarpSize) {
    if (max[b] > best) best = max[b], block = b;
  }
  const float top = warp_max(best);
  if (top == -INFINITY) return {};
  block = -warp_max(best == top ? -block : INT64_MIN);
  const BlockValues values = load_block(reader.view, block);
  const uint32_t keep = reader.keep(values, block);
  int64_t token = INT64_MAX;
#pragma unroll
  for (int i = kLaneValues - 1; i >= 0; --i) {
    if ((keep >> i & 1) && values.value[i] == top) token = token_of(block, i);
  }
  return {-warp_max(-token), top};
}

}  // namespace thrifty::cuda
