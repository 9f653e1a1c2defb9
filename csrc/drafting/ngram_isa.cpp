// Looking up keys and drawing children for one instruction set; vectors of 32 bytes on all of them,
// since a bucket is two of them and a slot's k <= 14 pairs are two of each kind.
//
//   q_i = p_i^inv_temp / sum_j p_j^inv_temp
//   child r: the first i with p_1 + ... + p_i > u_r (p_1 + ... + p_k), then p_i = 0
//
// with p tempered, which is the law of Gumbel's top `wanted`, without logarithms. What is drawn
// cannot be predicted, so there are no branches on it. Sums are taken anew for each child: in
// differences the smallest p would be lost.
#include "core/simd.h"
#include "drafting/ngram_kernels.h"

namespace thrifty::THRIFTY_ISA {
namespace {

using drafting::kBucket, drafting::kMaxK;
using Kernels = drafting::NgramKernels;

typedef float Floats __attribute__((vector_size(32)));
typedef float HalfFloats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));
typedef int64_t Longs __attribute__((vector_size(32)));

constexpr int kPairs = 16;  // lanes of two vectors

template <class V>
THRIFTY_INLINE V get(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
THRIFTY_INLINE void put(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// --- keys ---------------------------------------------------------------------------------------

// 1 + the place of a key in its bucket, 0 where it is not there.
THRIFTY_INLINE int place_in_bucket(const uint64_t* bucket, uint64_t key) {
  const Longs wanted = int64_t(key) - Longs{};
  const Longs low = (get<Longs>(bucket) == wanted) & Longs{1, 2, 3, 4};
  const Longs high = (get<Longs>(bucket + 4) == wanted) & Longs{5, 6, 7, 8};
  const Longs found = low | high;
  return int(found[0] | found[1] | found[2] | found[3]);
}

void find(const Kernels::Table* tables, const uint64_t* keys, int64_t count, int orders, int known,
          Kernels::Place* places) {
  for (int64_t i = 0; i < count; ++i, keys += 2 * orders) {
    Kernels::Place& place = places[i];
    place.slot = nullptr;
    for (int n = known - 1; n >= 0 && place.slot == nullptr; --n) {
      for (int t = 0; t < 2; ++t) {
        const Kernels::Table& table = tables[t];
        if (table.keys == nullptr) continue;
        const uint64_t key = keys[t * orders + n];
        const int at = place_in_bucket(table.keys + (key & table.mask), key);
        if (at == 0) continue;
        const int64_t slot = int64_t(key & table.mask) + at - 1;
        place = {table.slots + slot * table.stride, table.end, table.keys + slot, key};
        __builtin_prefetch(place.slot);
        __builtin_prefetch(place.slot + table.stride - 1);
        break;
      }
    }
  }
}

// --- children -----------------------------------------------------------------------------------

constexpr Ints kLane[2] = {{0, 1, 2, 3, 4, 5, 6, 7}, {8, 9, 10, 11, 12, 13, 14, 15}};
constexpr Longs kWideLane[4] = {{0, 1, 2, 3}, {4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}};
constexpr Longs kBit[4] = {
    {1, 2, 4, 8}, {16, 32, 64, 128}, {256, 512, 1024, 2048}, {4096, 8192, 16384, 32768}};

THRIFTY_INLINE float sum_of(Floats v) {
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3);
  return (v[0] + v[2]) + (v[1] + v[3]);
}

THRIFTY_INLINE Doubles wide(Floats v, int half) {
  const HalfFloats low = __builtin_shufflevector(v, v, 0, 1, 2, 3),
                   high = __builtin_shufflevector(v, v, 4, 5, 6, 7);
  return __builtin_convertvector(half == 0 ? low : high, Doubles);
}

// p_i <- (p_i / p_0)^inv_temp. Pairs too small to be drawn, which are the last ones, are left out,
// as verification divides by q; how many are left.
__attribute__((noinline)) int temper(Floats* p, int m, float inv_temp) {
  float values[kPairs];
  put(values, p[0]), put(values + 8, p[1]);
  const float largest = values[0];
  for (int i = 0; i < kPairs; ++i) {
    values[i] = i < m ? __builtin_powf(values[i] / largest, inv_temp) : 0;
    if (i < m && !(values[i] >= drafting::kSmallestProb)) values[i] = 0, m = i;
  }
  p[0] = get<Floats>(values), p[1] = get<Floats>(values + 8);
  return m;
}

// The lane drawn by a word, and out of p with it.
THRIFTY_INLINE int take(Doubles* left, uint32_t word, uint32_t& alive) {
  Doubles sums[4], last[4];
  for (int j = 0; j < 4; ++j) {
    sums[j] = left[j] + __builtin_shufflevector(left[j], Doubles{}, 4, 0, 1, 2);
    sums[j] += __builtin_shufflevector(sums[j], Doubles{}, 4, 5, 0, 1);
    last[j] = __builtin_shufflevector(sums[j], sums[j], 3, 3, 3, 3);
  }
  const Doubles two = last[0] + last[1], three = two + last[2];
  sums[1] += last[0], sums[2] += two, sums[3] += three;
  const Doubles target = (double(word) + 0.5) * 0x1p-32 * (three + last[3]);
  Longs above{};
  for (int j = 0; j < 4; ++j) above |= (sums[j] > target) & kBit[j];
  // Of those above the first; lanes without p are none, whatever rounding says.
  const uint32_t found = uint32_t(above[0] | above[1] | above[2] | above[3]) & alive;
  const int lane = __builtin_ctz(found | (uint32_t(1) << (31 - __builtin_clz(alive))));
  for (int j = 0; j < 4; ++j) {
    left[j] = Doubles(Longs(left[j]) & (kWideLane[j] != int64_t(lane) - Longs{}));
  }
  alive &= ~(uint32_t(1) << lane);
  return lane;
}

// From a slot that may be written meanwhile: then what comes out is not used.
THRIFTY_INLINE int read_and_draw(Kernels::Node& node, const char* slot) {
  const int k = node.k;
  uint32_t words[drafting::kSlotIds + 2 * kPairs];
  if (slot + 4 * (drafting::kSlotIds + k + kPairs) > node.place.end) {  // the last of the region
    __builtin_memcpy(words, slot, 4 * size_t(drafting::kSlotIds + 2 * k));
    slot = reinterpret_cast<const char*>(words);
  }
  int32_t stored;
  __builtin_memcpy(&stored, slot + 4 * drafting::kSlotPairs, sizeof stored);
  int m = stored < 0 || stored > k ? k : stored;
  const char* const pairs = slot + 4 * drafting::kSlotIds;
  Ints ids[2];
  Floats p[2];
  for (int h = 0; h < 2; ++h) {
    ids[h] = get<Ints>(pairs + 32 * h);
    p[h] = kLane[h] < m - Ints{} ? get<Floats>(pairs + 4 * k + 32 * h) : Floats{};
  }
  int32_t tokens[kPairs];
  put(tokens, ids[0]), put(tokens + 8, ids[1]);
  int count = node.wanted < m ? node.wanted : m;
  if (!node.sample) {
    for (int r = 0; r < count; ++r) node.tokens[r] = tokens[r];
    return count;
  }
  if (node.inv_temp != 1) m = temper(p, m, node.inv_temp);
  if (m == 0) return 0;
  count = count < m ? count : m;
  Doubles left[4] = {wide(p[0], 0), wide(p[0], 1), wide(p[1], 0), wide(p[1], 1)};
  uint32_t alive = (uint32_t(1) << m) - 1;
  for (int r = 0; r < count; ++r) node.tokens[r] = tokens[take(left, node.words[r], alive)];
  const float scale = 1 / sum_of(p[0] + p[1]);
  for (int h = 0; h < 2; ++h) {
    p[h] *= scale;
    ids[h] = kLane[h] < m - Ints{} ? ids[h] : -1 - Ints{};
  }
  if (node.room >= kPairs) {
    for (int h = 0; h < 2; ++h) put(node.q_ids + 8 * h, ids[h]), put(node.q + 8 * h, p[h]);
  } else {
    __builtin_memcpy(node.q_ids, ids, 4 * size_t(k));
    __builtin_memcpy(node.q, p, 4 * size_t(k));
  }
  return count;
}

int draw(Kernels::Node& node) {
  const auto* const version = reinterpret_cast<const uint32_t*>(node.place.slot);
  for (int tries = 0; tries < 64; ++tries) {  // written again and again: as good as unknown
    const uint32_t before = __atomic_load_n(version, __ATOMIC_ACQUIRE);
    if (before & 1) continue;
    const int count = read_and_draw(node, node.place.slot);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    if (__atomic_load_n(version, __ATOMIC_RELAXED) != before) continue;
    if (__atomic_load_n(node.place.key_at, __ATOMIC_RELAXED) == node.place.key) return count;
    break;
  }
  for (int i = 0; i < node.k; ++i) node.q_ids[i] = -1, node.q[i] = 0;
  return 0;
}

}  // namespace

extern const Kernels ngram_kernels{&find, &draw};

}  // namespace thrifty::THRIFTY_ISA
