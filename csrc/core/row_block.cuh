// A block of 1024 logits in the registers of one warp: its mass, and a draw from it. The device's
// side of core/logits.h, with the same blocks, the same uniforms and the same law.
//
// A block's mass is sum * 2^exponent, where the exponent is that of its largest weight, so masses
// of any ratio add without loss. A draw takes two uniforms and no noise per token: one chooses the
// block (core/row_mass.cuh), the other a token of it.
//
// A lane holds 8 consecutive tokens of each of the block's 4 chunks of 256, whatever the dtype and
// the row's alignment, so that results depend on neither: two loads of 16 bytes for float32, one
// for bfloat16 and float16, single elements where a row does not start on 16 bytes.
#pragma once

#include "core/cuda/convert.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/math.cuh"
#include "core/cuda/memory.cuh"
#include "core/logits.h"

namespace thrifty::cuda {

constexpr int kBlockChunks = 4, kLaneTokens = 8, kLaneValues = kBlockChunks * kLaneTokens;
constexpr int kChunkTokens = kWarpSize * kLaneTokens;
constexpr uint32_t kAllTokens = 0xffffffffu;
constexpr double kLog2 = 0.6931471805599453;
static_assert(kLogitsBlock == kBlockChunks * kChunkTokens);

// One row as a warp reads it.
template <class T>
struct RowView {
  const T* logits;  // [vocab]
  int64_t vocab;
  float scale;  // exp(l / T) = 2^(l scale): log2_scale(1 / T)
};

// The lane's 32 logits of a block, as stored. Value i is token token_of(block, i); beyond the
// vocabulary it is -inf.
struct BlockValues {
  float value[kLaneValues];
};

THRIFTY_DEVICE int64_t token_of(int64_t block, int i) {
  return block * kLogitsBlock + i / kLaneTokens * kChunkTokens + lane_index() * kLaneTokens +
         i % kLaneTokens;
}

// The lane's tokens of one chunk.
template <class T>
THRIFTY_DEVICE void load_chunk(const RowView<T>& row, int64_t block, int chunk,
                               float (&to)[kLaneTokens]) {
  constexpr int kPiece = 16 / int(sizeof(T));  // elements of one access
  const bool aligned = reinterpret_cast<uintptr_t>(row.logits) % 16 == 0;
  const int64_t first = token_of(block, chunk * kLaneTokens);
  if (aligned && first + kLaneTokens <= row.vocab) {
#pragma unroll
    for (int piece = 0; piece < kLaneTokens; piece += kPiece) {
      const Vec<T, kPiece> loaded = load_vec_readonly<kPiece>(row.logits + first + piece);
#pragma unroll
      for (int j = 0; j < kPiece; ++j) to[piece + j] = to_float(loaded[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kLaneTokens; ++j) {
      to[j] = first + j < row.vocab ? to_float(load_readonly(row.logits + first + j)) : -INFINITY;
    }
  }
}

template <class T>
THRIFTY_DEVICE BlockValues load_block(const RowView<T>& row, int64_t block) {
  BlockValues values;
#pragma unroll
  for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
    float part[kLaneTokens];
    load_chunk(row, block, chunk, part);
#pragma unroll
    for (int j = 0; j < kLaneTokens; ++j) values.value[chunk * kLaneTokens + j] = part[j];
  }
  return values;
}

// --- which tokens count: bit i is value i
// ---------------------------------------------------------

// Of a token bitmask (bit j % 32 of word j / 32, 1 = allowed). Tokens beyond its words are not
// allowed. No mask: all are.
THRIFTY_DEVICE uint32_t allowed_bits(const uint32_t* mask, int64_t words, int64_t block) {
  if (mask == nullptr) return kAllTokens;
  const int shift = lane_index() % 4 * kLaneTokens;
  uint32_t bits = 0;
#pragma unroll
  for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
    const int64_t word = block * kBlockWords + chunk * (kChunkTokens / 32) + lane_index() / 4;
    const uint32_t found = word < words ? load_readonly(mask + word) : 0;
    bits |= (found >> shift & 0xff) << (chunk * kLaneTokens);
  }
  return bits;
}

// Those whose logit is at least `bound`; with -inf as bound also NaN.
THRIFTY_DEVICE uint32_t at_least_bits(const BlockValues& values, float bound) {
  if (bound == -INFINITY) return kAllTokens;
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) bits |= uint32_t(values.value[i] >= bound) << i;
  return bits;
}

// The bit of token `id`, none where another lane or another block holds it.
THRIFTY_DEVICE uint32_t token_bit(int64_t id, int64_t block) {
  const int64_t within = id - block * kLogitsBlock;
  if (within < 0 || within >= kLogitsBlock) return 0;
  if (int(within) % kChunkTokens / kLaneTokens != lane_index()) return 0;
  return 1u << (int(within) / kChunkTokens * kLaneTokens + int(within) % kLaneTokens);
}

// --- masses
// ---------------------------------------------------------------------------------------

// The largest kept logit; a NaN is passed over.
THRIFTY_DEVICE float block_max(const BlockValues& values, uint32_t keep) {
  float max = -INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    if (keep >> i & 1) max = fmaxf(max, values.value[i]);
  }
  return warp_max(max);
}

// What the weights of a block are relative to: w = 2^((l - top) scale + fraction), which is
// exp(l / T) / 2^exponent. The difference comes first, so that neither temperature nor a common
// offset of the logits costs digits. Weights are computed where they are needed and never kept: 32
// more registers would cost more than the exponentials.
struct Relative {
  float top, scale, fraction;
  double exponent;

  THRIFTY_DEVICE Relative(float largest, float log2_scale)
      : top(largest == -INFINITY ? 0 : largest), scale(log2_scale) {
    const double log2 = double(top) * double(scale);
    exponent = floor(log2);
    fraction = float(log2 - exponent);
  }
  THRIFTY_DEVICE float weight(float logit) const { return exp2f((logit - top) * scale + fraction); }
  // Tokens without mass have the mass {}.
  THRIFTY_DEVICE BlockMass mass(float sum) const {
    if (sum == 0) return {};
    return {top, sum, exponent};
  }
};

// The lane's share of a chunk. One order of addition everywhere, so that a sum taken twice agrees.
THRIFTY_DEVICE float chunk_share(const BlockValues& values, const Relative& relative, uint32_t keep,
                                 int chunk) {
  float sum = 0;
#pragma unroll
  for (int i = chunk * kLaneTokens; i < (chunk + 1) * kLaneTokens; ++i) {
    const float weight = relative.weight(values.value[i]);
    sum += keep >> i & 1 ? weight : 0.0f;
  }
  return sum;
}

THRIFTY_DEVICE float kept_sum(const BlockValues& values, const Relative& relative, uint32_t keep) {
  float sum = 0;
#pragma unroll
  for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
    sum += chunk_share(values, relative, keep, chunk);
  }
  return warp_sum(sum);
}

// A NaN or +inf among the tokens makes the sum NaN.
THRIFTY_DEVICE BlockMass kept_mass(const BlockValues& values, float scale, uint32_t keep) {
  const Relative relative(block_max(values, keep), scale);
  return relative.mass(kept_sum(values, relative, keep));
}

// Of all tokens and of the kept ones from the same exponentials, unless those are all so small that
// they would lose digits or vanish.
struct BlockMasses {
  BlockMass all, kept;
};

THRIFTY_DEVICE BlockMasses block_masses(const BlockValues& values, float scale, uint32_t keep,
                                        float kept_max) {
  constexpr float kSmall = 1e-18f;  // float32 has 1e-38
  const Relative relative(block_max(values, kAllTokens), scale);
  float all = 0, kept = 0;
#pragma unroll
  for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
    float all_share = 0, kept_share = 0;
#pragma unroll
    for (int i = chunk * kLaneTokens; i < (chunk + 1) * kLaneTokens; ++i) {
      const float weight = relative.weight(values.value[i]);
      all_share += weight;
      kept_share += keep >> i & 1 ? weight : 0.0f;
    }
    all += all_share;
    kept += kept_share;
  }
  all = warp_sum(all);
  kept = warp_sum(kept);
  BlockMasses masses{relative.mass(all), relative.mass(kept)};
  if (kept < kSmall && kept_max > -INFINITY) {
    const Relative own(kept_max, scale);
    masses.kept = own.mass(kept_sum(values, own, keep));
  }
  return masses;
}

// --- draws --------------------------------------------------------------------------------------

// Of the lane `delta` below; the lowest lanes get their own. By index: where ptxas cannot prove
// that a warp has converged, `shfl_up` becomes a call that spills.
template <class T>
THRIFTY_DEVICE T from_below(T value, int delta) {
  const int lane = lane_index();
  return shfl(value, lane < delta ? lane : lane - delta);
}

// The sum over the lanes below.
THRIFTY_DEVICE double warp_prefix(double value) {
  double sum = value;
#pragma unroll
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const double below = from_below(sum, delta);
    if (lane_index() >= delta) sum += below;
  }
  const double before = from_below(sum, 1);
  return lane_index() == 0 ? 0 : before;
}

// Walks over weights in their order, a warp of 32 at a time, to the first item whose cumulative sum
// exceeds the target; where rounding leaves none, to the last item with weight.
class Search {
 public:
  THRIFTY_DEVICE explicit Search(double target) : target_(target) {}

  // The next 32 weights; all lanes call. Sums run on in double.
  THRIFTY_DEVICE void offer(double weight, int batch) {
    const double before = before_ + warp_prefix(weight);
    before_ = shfl(before + weight, kWarpSize - 1);
    const uint32_t reach = warp_ballot(weight > 0 && before + weight > target_);
    const uint32_t any = warp_ballot(weight > 0);
    if (found_ || any == 0) return;
    found_ = reach != 0;
    lane_ = found_ ? find_first_set(reach) - 1 : kWarpSize - 1 - count_leading_zeros(any);
    batch_ = batch;
    base_ = shfl(before, lane_);
  }

  THRIFTY_DEVICE bool found() const { return found_; }
  THRIFTY_DEVICE int batch() const { return batch_; }  // -1: there was no weight
  THRIFTY_DEVICE int lane() const { return lane_; }
  THRIFTY_DEVICE double base() const { return base_; }  // the sum before the item

 private:
  double target_, before_ = 0, base_ = 0;
  int batch_ = -1, lane_ = 0;
  bool found_ = false;
};

struct Pick {
  int64_t token = -1;
  float logit = -INFINITY;
};

// A kept token of the block by its weight: the first whose cumulative sum in the order of ids
// exceeds v times the whole, v in [0, 1). -1 where none has mass. All lanes get it.
THRIFTY_DEVICE Pick draw_in_block(const BlockValues& values, float scale, uint32_t keep,
                                  int64_t block, double v) {
  const Relative relative(block_max(values, keep), scale);
  const double target = v * double(kept_sum(values, relative, keep));
  Search search(target);
#pragma unroll
  for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
    search.offer(chunk_share(values, relative, keep, chunk), chunk);
  }
  if (search.batch() < 0) return {};
  Pick pick;
  double sum = search.base();
  bool passed = false;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    if (i / kLaneTokens != search.batch()) continue;
    const float weight = keep >> i & 1 ? relative.weight(values.value[i]) : 0.0f;
    sum += weight;
    if (weight > 0 && !passed) {
      pick = {token_of(block, i), values.value[i]};
      passed = sum > target;
    }
  }
  return {shfl(pick.token, search.lane()), shfl(pick.logit, search.lane())};
}

}  // namespace thrifty::cuda
