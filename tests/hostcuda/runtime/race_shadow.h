// What the checker remembers of each byte: the last store, the readers since, what is in flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace thrifty::cuda::host::race {

inline constexpr uintptr_t kPageBytes = 4096;

struct Cell {
  uint32_t write_clock = 0, write_block = 0;
  uint32_t read_block = 0, earlier_reading_block = 0;  // of the last reader, and one before it
  uint16_t writer = 0, reader = 0;                     // agents
  bool in_flight = false;  // an asynchronous copy, issued at write_code, has yet to arrive
  bool write_was_atomic = false;
  bool many_reading_blocks = false;  // earlier_reading_block is of the same launch
  const void* write_code = nullptr;
  const void* read_code = nullptr;
};

// Readers of a byte from one warp, or one unit: the lanes, and a clock that none of them precedes.
struct Readers {
  uint32_t clock = 0, lanes = 0;
};

struct Page {
  Cell cells[kPageBytes];
  std::vector<Readers> readers;  // [byte][group], allocated at the first read
  int groups = 0;

  void allow_readers(int count) {
    if (groups >= count) return;
    groups = count;
    readers.assign(size_t(count) * kPageBytes, {});
  }
  Readers* readers_of(uintptr_t offset) {
    return readers.empty() ? nullptr : &readers[offset * size_t(groups)];
  }
};

class Shadow {
 public:
  Page& page(uintptr_t address) {
    const uintptr_t number = address / kPageBytes;
    if (number == last_number_) return *last_;
    auto& slot = pages_[number];
    if (!slot) slot = std::make_unique<Page>();
    last_number_ = number;
    return *(last_ = slot.get());
  }

 private:
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  uintptr_t last_number_ = 0;
  Page* last_ = nullptr;
};

}  // namespace thrifty::cuda::host::race
