// The memory of an n-gram table: one region, which is also the file format.
//
//   [header, 4096 bytes][keys u64, capacity][slots, capacity x stride]
//
// Buckets of eight keys fill one cache line, so a look-up that misses touches one line; a slot is
// read only when its key matched. A full bucket gives up the slot with the lowest (count, age):
// memory is bounded, nothing is rehashed or moved. STAND (arXiv 2506.04708, section 3) keeps the
// same pairs in a dict of n-grams.
//
// Writers lock the bucket's stripe. Readers lock nothing: a slot's version is odd while it is
// written and read again after copying (a seqlock; every word is an atomic, so there is no race).
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <string>

#include "core/philox.h"  // THRIFTY_ANY_SIDE
#include "drafting/ngram_kernels.h"

namespace thrifty::drafting {

constexpr int64_t kHeaderBytes = 4096, kStripes = 256;

struct NgramOptions {
  int64_t capacity = 0, k = 0, n_min = 0, n_max = 0, count_cap = 0, seed = 0;
  int64_t vocab_size = 0;  // 0: unknown
  std::string vocab;
};

// What one slot says: m pairs, probabilities descending.
struct NgramEntry {
  uint32_t count = 0, age = 0;
  int m = 0;
  int32_t ids[kMaxK];
  float probs[kMaxK];  // those from m on are 0
};

// First page of the region. Counters are changed through atomic_ref.
struct NgramHeader {
  static constexpr char kMagic[8] = {'T', 'H', 'R', 'N', 'G', 'R', 'A', 'M'};
  static constexpr uint32_t kVersion = 2, kEndian = 0x01020304;
  static constexpr int kVocabBytes = 256;
  char magic[8];
  uint32_t version, endian;
  uint64_t header_checksum, data_checksum;  // of a file; the first with both fields zero
  int64_t capacity, k, n_min, n_max, count_cap, seed, vocab_size, stride;
  char vocab[kVocabBytes];
  uint64_t clock, used, updates, evictions, lookups, hits;
};
static_assert(sizeof(NgramHeader) <= kHeaderBytes);

// --- keys ---------------------------------------------------------------------------------------

// An n-gram is hashed from its newest token backwards, so one sweep gives the keys of all orders:
// the hash after each token is the key of so many. Two n-grams share a key with chance 2^-64, and
// then only draft worse.
THRIFTY_ANY_SIDE inline uint64_t hash_seed(uint64_t seed) {
  return seed * 0x9E3779B97F4A7C15u + 0xD6E8FEB86659FD93u;
}
// Never 0, which marks a free slot. Buckets are the low bits: the high ones of a product, on which
// all of the token's depend, are folded upon them.
THRIFTY_ANY_SIDE inline uint64_t hash_token(uint64_t hash, int32_t id) {
  hash = (hash ^ uint32_t(id)) * 0x9FB21C651E98DF25u;
  hash ^= hash >> 32;
  return hash != 0 ? hash : 1;
}

// --- the region ---------------------------------------------------------------------------------

enum class Place { kKnown, kFree, kEvicted };  // where an update found room

class NgramStore {
 public:
  explicit NgramStore(const NgramOptions& options);  // empty, of options that were checked
  // A region that was checked: a mapping that becomes the store's, or memory that stays another's.
  NgramStore(void* region, int64_t bytes, bool owned = true);
  ~NgramStore();
  NgramStore(const NgramStore&) = delete;
  NgramStore& operator=(const NgramStore&) = delete;

  NgramHeader& header() const { return *reinterpret_cast<NgramHeader*>(region_); }
  int k() const { return k_; }
  uint64_t seed() const { return seed_; }
  bool owned() const { return owned_; }
  int64_t capacity() const { return int64_t(mask_) + kBucket; }

  NgramKernels::Table view() const { return {keys_, slots_, region_ + bytes_, mask_, stride_}; }
  void prefetch_keys(uint64_t key) const { __builtin_prefetch(keys_ + bucket(key)); }
  void prefetch_slot(int64_t slot) const {
    __builtin_prefetch(slot_at(slot));
    __builtin_prefetch(slot_at(slot) + stride_ - 1);
  }

  uint64_t bucket_number(uint64_t key) const { return bucket(key) / kBucket; }

  // The slot of a key, -1 when there is none. Without branches on single keys: which one matches
  // cannot be predicted.
  int64_t find(uint64_t key) const {
    const uint64_t first = bucket(key);
    uint32_t match = 0;
#if !defined(__CUDACC__)
#pragma GCC unroll 8
#endif
    for (int i = 0; i < kBucket; ++i) {
      const bool same = key_ref(first + uint64_t(i)).load(std::memory_order_relaxed) == key;
      match |= uint32_t(same) << i;
    }
    return match != 0 ? int64_t(first) + std::countr_zero(match) : -1;
  }

  // A copy of what the slot holds for this key; false when it holds another key by now.
  bool read(int64_t slot, uint64_t key, NgramEntry& entry) const {
    const char* at = slot_at(slot);
    for (int tries = 0; tries < 64; ++tries) {
      const uint32_t version = lane<uint32_t>(at, 0).load(std::memory_order_acquire);
      if (version & 1) continue;
      load(at, entry);
      std::atomic_thread_fence(std::memory_order_acquire);
      if (lane<uint32_t>(at, 0).load(std::memory_order_relaxed) != version) continue;
      return key_ref(uint64_t(slot)).load(std::memory_order_relaxed) == key;
    }
    return false;  // written again and again: as good as unknown
  }

  // Replaces what is known of a key: change(entry) gets an entry of count 0 for a new one. Under
  // the bucket's lock.
  template <class Change>
  Place upsert(uint64_t key, uint32_t age, const Change& change);

  class Lock {  // of one stripe
   public:
    Lock(const NgramStore& store, uint64_t key)
        : flag_(store.locks_[store.bucket_number(key) % kStripes]) {
      while (flag_.test_and_set(std::memory_order_acquire)) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    }
    ~Lock() { flag_.clear(std::memory_order_release); }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::atomic_flag& flag_;
  };

  class LockAll {
   public:
    explicit LockAll(const NgramStore& store);
    ~LockAll();
    LockAll(const LockAll&) = delete;
    LockAll& operator=(const LockAll&) = delete;

   private:
    const NgramStore& store_;
  };

  void clear();
  uint64_t key(int64_t slot) const {
    return key_ref(uint64_t(slot)).load(std::memory_order_relaxed);
  }
  const char* region() const { return region_; }
  int64_t bytes() const { return bytes_; }
  int64_t slot_bytes() const { return stride_ + int64_t(sizeof(uint64_t)); }

  static int64_t stride_of(int64_t k) { return 16 + 8 * k; }
  static int64_t bytes_of(int64_t capacity, int64_t k) {
    return kHeaderBytes + capacity * (8 + stride_of(k));
  }

 private:
  void attach();
  uint64_t bucket(uint64_t key) const { return key & mask_; }
  std::atomic_ref<uint64_t> key_ref(uint64_t slot) const {
    return std::atomic_ref<uint64_t>(keys_[slot]);
  }
  char* slot_at(int64_t slot) const { return slots_ + slot * stride_; }
  int64_t choose(uint64_t key, Place& place) const;
  template <class T>
  static std::atomic_ref<T> lane(const char* at, int i) {
    return std::atomic_ref<T>(reinterpret_cast<T*>(const_cast<char*>(at))[i]);
  }
  void load(const char* at, NgramEntry& entry) const {
    constexpr auto relaxed = std::memory_order_relaxed;
    entry.count = lane<uint32_t>(at, 1).load(relaxed);
    entry.age = lane<uint32_t>(at, 2).load(relaxed);
    entry.m = int(lane<uint32_t>(at, kSlotPairs).load(relaxed));
    if (entry.m > k_) entry.m = k_;
    for (int i = 0; i < k_; ++i) {
      entry.ids[i] = lane<int32_t>(at, kSlotIds + i).load(relaxed);
      entry.probs[i] = lane<float>(at, kSlotIds + k_ + i).load(relaxed);
    }
  }
  void publish(int64_t slot, uint64_t key, const NgramEntry& entry);

  char* region_ = nullptr;
  int64_t bytes_ = 0, stride_ = 0;
  uint64_t* keys_ = nullptr;
  char* slots_ = nullptr;
  uint64_t mask_ = 0, seed_ = 0;  // mask_: capacity - kBucket, a bucket's first slot
  int k_ = 0;
  bool owned_ = true;
  std::unique_ptr<std::atomic_flag[]> locks_;
};

template <class Change>
Place NgramStore::upsert(uint64_t key, uint32_t age, const Change& change) {
  const Lock lock(*this, key);
  NgramEntry entry;
  Place place = Place::kKnown;
  int64_t slot = find(key);
  if (slot >= 0) {
    load(slot_at(slot), entry);
  } else {
    slot = choose(key, place);
  }
  change(entry);
  entry.age = age;
  publish(slot, key, entry);
  return place;
}

}  // namespace thrifty::drafting
