// Updates of a table on the device: keys of all contexts, then a warp per share of the buckets runs
// through them in order. A slot's pairs and the new ones are one lane each.
#include "core/cuda/atomic.cuh"
#include "core/cuda/launch.h"
#include "drafting/ngram_region.cuh"

namespace thrifty::drafting::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;
constexpr int64_t kMostParts = 528;  // a warp for each scheduler of an H100
constexpr int kNewLane = 16;         // where new pairs begin; both halves have room for kMaxK
static_assert(kMaxK <= kNewLane);

__global__ void __launch_bounds__(kThreads)
    ngram_keys_kernel(DeviceTable table, Contexts contexts, uint64_t* keys) {
  const Region region(table);
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row == 0) region.header->clock += 1;
  if (row >= contexts.rows) return;
  const int32_t* const end = contexts.tails + (row + 1) * contexts.stride;
  const int len = context_length(contexts, row, region.n_max);
  uint64_t hash = hash_seed(region.seed);
  for (int n = 1; n <= region.n_max; ++n) {
    if (n <= len) hash = hash_token(hash, end[-n]);
    if (n < region.n_min) continue;
    keys[row * (region.n_max - region.n_min + 1) + n - region.n_min] = n <= len ? hash : 0;
  }
}

struct Place {
  int64_t slot;
  bool known, evicted;
};

// A key's slot, a free one of its bucket, or the one with the lowest (count, age). Lanes 0..7 hold
// one key of the bucket each.
THRIFTY_DEVICE Place find_place(const Region& region, uint64_t key) {
  const uint64_t first = region.bucket(key);
  const int lane = lane_index();
  uint64_t held = 0, worth = ~uint64_t(0);
  if (lane < kBucket) {
    held = region.keys[first + uint64_t(lane)];
    const uint32_t* const slot = region.slot(int64_t(first) + lane);
    worth = uint64_t(slot[1]) << 32 | slot[2];
  }
  const uint32_t same = warp_ballot(lane < kBucket && held == key);
  const uint32_t free = warp_ballot(lane < kBucket && held == 0);
  const uint64_t lowest = ~warp_max(~worth);
  const uint32_t victims = warp_ballot(lane < kBucket && worth == lowest);
  const uint32_t chosen = same != 0 ? same : free != 0 ? free : victims;
  return {int64_t(first) + find_first_set(chosen) - 1, same != 0, same == 0 && free == 0};
}

// P <- (1 - w) P + w P_new, w = 1 / (min(count, cap) + 1), the k largest stay, of equal ones the
// older first.
THRIFTY_DEVICE void merge(const Region& region, int64_t cap, const Place& place, uint64_t key,
                          uint32_t age, const int32_t* ids, const float* probs, int64_t width) {
  uint32_t* const slot = region.slot(place.slot);
  const int lane = lane_index(), k = region.k;
  const uint32_t count = place.known ? slot[1] : 0;
  const int held =
      place.known ? int(slot[kSlotPairs] < uint32_t(k) ? slot[kSlotPairs] : uint32_t(k)) : 0;
  const float weight = 1.0f / (float(int64_t(count) < cap ? int64_t(count) : cap) + 1);
  const bool fresh = lane >= kNewLane;
  const int at = lane % kNewLane;
  int32_t id = -1;
  float prob = 0;
  if (!fresh && at < held) {
    id = int32_t(slot[kSlotIds + at]);
    prob = (1 - weight) * bits_as_float(slot[kSlotIds + k + at]);
  } else if (fresh && at < k && at < width) {
    id = ids[at];
    prob = weight * (probs ? fminf(probs[at], 1) : 1.0f);
  }
  // New pairs end with the first id below 0; one that is known already adds to it.
  const uint32_t ends = warp_ballot(fresh && id < 0);
  if (fresh && (ends & ((2u << lane) - 1)) != 0) id = -1;
  for (int j = kNewLane; j < kNewLane + kMaxK; ++j) {
    const int32_t other = shfl(id, j);
    const float more = shfl(prob, j);
    const bool same = other >= 0 && id == other && lane < j;  // an older or an earlier one has it
    const uint32_t owners = warp_ballot(same);
    if (owners == 0) continue;
    if (same && lane == find_first_set(owners) - 1 && more > 0) prob += more;
    if (lane == j) id = -1;
  }
  const bool live = id >= 0 && prob >= kSmallestProb;
  int rank = 0;
  for (int other = 0; other < kWarpSize; ++other) {
    const float theirs = shfl(live ? prob : -1.0f, other);
    rank += theirs > prob || (theirs == prob && other < lane);
  }
  const int total = popcount(warp_ballot(live));
  const int kept = total < k ? total : k;
  syncwarp();  // all lanes have read the slot
  if (live && rank < k) {
    slot[kSlotIds + rank] = uint32_t(id);
    slot[kSlotIds + k + rank] = float_as_bits(prob);
  }
  if (lane >= kept && lane < k) slot[kSlotIds + lane] = slot[kSlotIds + k + lane] = 0;
  if (lane == 0) {
    region.keys[place.slot] = key;
    slot[0] += 2;
    slot[1] = count < UINT32_MAX ? count + 1 : count;
    slot[2] = age;
    slot[kSlotPairs] = uint32_t(kept);
  }
  syncwarp();
}

__global__ void __launch_bounds__(kThreads)
    ngram_update_kernel(DeviceTable table, Followers followers, const uint64_t* keys, int64_t total,
                        uint32_t parts) {
  const auto part = uint32_t(blockIdx.x * kWarps) + uint32_t(warp_index());
  if (part >= parts) return;  // a whole warp; there is no barrier below
  const Region region(table);
  const int orders = region.n_max - region.n_min + 1;
  const auto age = uint32_t(region.header->clock);
  unsigned long long updates = 0, used = 0, evictions = 0;
  for (int64_t first = 0; first < total; first += kWarpSize) {
    const int64_t i = first + lane_index();
    const uint64_t key = i < total ? keys[i] : 0;
    const uint64_t bucket = region.bucket(key) / kBucket;
    uint32_t mine = warp_ballot(key != 0 && uint32_t(bucket ^ bucket >> 32) % parts == part);
    for (; mine != 0; mine &= mine - 1) {
      const int lane = find_first_set(mine) - 1;
      const uint64_t chosen = shfl(key, lane);
      const int64_t row = (first + lane) / orders;
      const Place place = find_place(region, chosen);
      merge(region, table.count_cap, place, chosen, age, followers.ids + row * followers.width,
            followers.probs ? followers.probs + row * followers.width : nullptr, followers.width);
      updates += 1, used += !place.known && !place.evicted, evictions += place.evicted;
    }
  }
  if (lane_index() != 0 || updates == 0) return;
  const auto add = [](uint64_t& counter, unsigned long long more) {
    if (more > 0) atomic_add(reinterpret_cast<unsigned long long*>(&counter), more);
  };
  add(region.header->updates, updates);
  add(region.header->used, used);
  add(region.header->evictions, evictions);
}

}  // namespace

int64_t ngram_update_scratch(const DeviceTable& table, int64_t rows) {
  return rows * (table.n_max - table.n_min + 1) * int64_t(sizeof(uint64_t));
}

LaunchStatus ngram_update(const DeviceTable& table, const Contexts& contexts,
                          const Followers& followers, void* scratch, cudaStream_t stream) {
  if (contexts.rows == 0) return {};
  uint64_t* const keys = static_cast<uint64_t*>(scratch);
  const int64_t total = contexts.rows * (table.n_max - table.n_min + 1);
  const int64_t parts = total < kMostParts ? total : kMostParts;
  const cudaError_t error =
      launch(ngram_keys_kernel, unsigned((contexts.rows + kThreads - 1) / kThreads), kThreads, 0,
             stream, table, contexts, keys);
  if (error != cudaSuccess) return {error, "ngram_keys"};
  return {launch(ngram_update_kernel, unsigned((parts + kWarps - 1) / kWarps), kThreads, 0, stream,
                 table, followers, keys, total, uint32_t(parts)),
          "ngram_update"};
}

}  // namespace thrifty::drafting::cuda
