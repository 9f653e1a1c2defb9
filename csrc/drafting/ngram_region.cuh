// Look-ups in a table on the device: keys of contexts and buckets of eight keys.
#pragma once

#include "core/cuda/index.cuh"
#include "core/cuda/math.cuh"
#include "core/cuda/memory.cuh"
#include "drafting/ngram_cuda.h"

namespace thrifty::drafting::cuda {

using namespace thrifty::cuda;

struct Region {
  NgramHeader* header;
  uint64_t* keys;
  uint32_t* slots;  // of 4 + 2 k words: version, count, age, m, ids[k], probs[k]
  uint64_t mask, seed;
  int k, n_min, n_max;

  THRIFTY_DEVICE explicit Region(const DeviceTable& table)
      : header(reinterpret_cast<NgramHeader*>(table.region)),
        keys(reinterpret_cast<uint64_t*>(table.region + kHeaderBytes)),
        slots(reinterpret_cast<uint32_t*>(table.region + kHeaderBytes + table.capacity * 8)),
        mask(uint64_t(table.capacity - kBucket)),
        seed(table.seed),
        k(int(table.k)),
        n_min(int(table.n_min)),
        n_max(int(table.n_max)) {}

  THRIFTY_DEVICE uint64_t bucket(uint64_t key) const { return key & mask; }
  THRIFTY_DEVICE uint32_t* slot(int64_t index) const { return slots + index * (4 + 2 * k); }

  // The slot of a key, -1 when there is none; by one thread.
  THRIFTY_DEVICE int64_t find(uint64_t key) const {
    const uint64_t first = bucket(key);
    int64_t found = -1;
#pragma unroll
    for (int i = 0; i < kBucket; ++i) {
      if (keys[first + uint64_t(i)] == key) found = int64_t(first) + i;
    }
    return found;
  }
};

// How many tokens of a context may be read.
THRIFTY_DEVICE int context_length(const Contexts& contexts, int64_t row, int n_max) {
  int64_t len = contexts.lens ? contexts.lens[row] : contexts.first_len + row * contexts.len_step;
  len = len < contexts.stride ? len : contexts.stride;
  len = len < n_max ? len : n_max;
  return len > 0 ? int(len) : 0;
}

}  // namespace thrifty::drafting::cuda
