#include "drafting/ngram_store.h"

#include <sys/mman.h>

#include <cstring>
#include <new>

namespace thrifty::drafting {
NgramStore::NgramStore(const NgramOptions& options) {
  bytes_ = bytes_of(options.capacity, options.k);
  // Pages are zero and take memory when they are first touched.
  void* mapped = mmap(nullptr, size_t(bytes_), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  region_ = static_cast<char*>(mapped);
  NgramHeader& h = header();
  std::memcpy(h.magic, NgramHeader::kMagic, sizeof h.magic);
  h.version = NgramHeader::kVersion, h.endian = NgramHeader::kEndian;
  h.capacity = options.capacity, h.k = options.k, h.n_min = options.n_min;
  h.n_max = options.n_max, h.count_cap = options.count_cap, h.seed = options.seed;
  h.vocab_size = options.vocab_size, h.stride = stride_of(options.k);
  std::memcpy(h.vocab, options.vocab.data(), options.vocab.size());
  attach();
  // Of a table larger than the caches every look-up is a TLB miss without large pages; a small one
  // would be all paid for at once.
  if (bytes_ >= int64_t(1) << 23) madvise(region_, size_t(bytes_), MADV_HUGEPAGE);
}

NgramStore::NgramStore(void* region, int64_t bytes, bool owned)
    : region_(static_cast<char*>(region)), bytes_(bytes), owned_(owned) {
  attach();
}

void NgramStore::attach() {
  const NgramHeader& h = header();
  k_ = int(h.k), seed_ = uint64_t(h.seed), stride_ = h.stride;
  mask_ = uint64_t(h.capacity - kBucket);
  keys_ = reinterpret_cast<uint64_t*>(region_ + kHeaderBytes);
  slots_ = region_ + kHeaderBytes + h.capacity * int64_t(sizeof(uint64_t));
  locks_ = std::make_unique<std::atomic_flag[]>(kStripes);
}

NgramStore::~NgramStore() {
  if (owned_) munmap(region_, size_t(bytes_));
}

// The caller holds the bucket's lock.
void NgramStore::publish(int64_t slot, uint64_t key, const NgramEntry& entry) {
  constexpr auto relaxed = std::memory_order_relaxed;
  char* at = slot_at(slot);
  const uint32_t version = lane<uint32_t>(at, 0).load(relaxed);
  lane<uint32_t>(at, 0).store(version + 1, relaxed);
  std::atomic_thread_fence(std::memory_order_release);
  key_ref(uint64_t(slot)).store(key, relaxed);
  lane<uint32_t>(at, 1).store(entry.count, relaxed);
  lane<uint32_t>(at, 2).store(entry.age, relaxed);
  lane<uint32_t>(at, kSlotPairs).store(uint32_t(entry.m), relaxed);
  for (int i = 0; i < k_; ++i) {  // zeros behind the pairs, so that equal tables are equal files
    lane<int32_t>(at, kSlotIds + i).store(i < entry.m ? entry.ids[i] : 0, relaxed);
    lane<float>(at, kSlotIds + k_ + i).store(i < entry.m ? entry.probs[i] : 0, relaxed);
  }
  lane<uint32_t>(at, 0).store(version + 2, std::memory_order_release);
}

// A free slot of the key's bucket, else the one with the lowest (count, age).
int64_t NgramStore::choose(uint64_t key, Place& place) const {
  place = Place::kFree;
  const uint64_t first = bucket(key);
  int64_t victim = -1;
  uint64_t lowest = 0;
  for (int i = 0; i < kBucket; ++i) {
    const int64_t slot = int64_t(first) + i;
    if (this->key(slot) == 0) return slot;
    const uint64_t count = lane<uint32_t>(slot_at(slot), 1).load(std::memory_order_relaxed);
    const uint64_t age = lane<uint32_t>(slot_at(slot), 2).load(std::memory_order_relaxed);
    const uint64_t worth = count << 32 | age;
    if (victim < 0 || worth < lowest) victim = slot, lowest = worth;
  }
  place = Place::kEvicted;
  return victim;
}

NgramStore::LockAll::LockAll(const NgramStore& store) : store_(store) {
  for (int64_t i = 0; i < kStripes; ++i) {
    while (store_.locks_[size_t(i)].test_and_set(std::memory_order_acquire)) {
    }
  }
}

NgramStore::LockAll::~LockAll() {
  for (int64_t i = 0; i < kStripes; ++i) {
    store_.locks_[size_t(i)].clear(std::memory_order_release);
  }
}

void NgramStore::clear() {
  const LockAll lock(*this);
  for (int64_t i = 0; i < capacity(); ++i) key_ref(uint64_t(i)).store(0, std::memory_order_relaxed);
  NgramHeader& h = header();
  for (uint64_t* counter : {&h.clock, &h.used, &h.updates, &h.evictions, &h.lookups, &h.hits}) {
    std::atomic_ref<uint64_t>(*counter).store(0, std::memory_order_relaxed);
  }
}

}  // namespace thrifty::drafting
