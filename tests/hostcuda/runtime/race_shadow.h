// What the checker remembers of memory: the last store, the readers since, what is in flight.
#pragma once

#include <algorithm>
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

// Readers of a grain from one warp, or one unit: the lanes, and a clock that none of them precedes.
struct Readers {
  uint32_t clock = 0, lanes = 0;
};

// A page remembers 4 bytes at a time until an access to fewer, or across, needs finer grains.
struct Page {
  int shift = 2;  // a grain has 1 << shift bytes
  int groups = 0;
  std::vector<Cell> cells{kPageBytes >> 2};
  std::vector<Readers> readers;  // [grain][group], allocated at the first read

  void allow_readers(int count) {
    if (groups >= count) return;
    groups = count;
    readers.assign(size_t(count) * cells.size(), {});
  }
  Readers* readers_of(size_t grain) {
    return readers.empty() ? nullptr : &readers[grain * size_t(groups)];
  }
  void refine_for(uintptr_t first, uintptr_t last) {
    while ((first | last) & ((uintptr_t(1) << shift) - 1)) halve_grains();
  }

 private:
  void halve_grains() {
    --shift;
    const size_t of = size_t(groups);
    std::vector<Cell> finer(cells.size() * 2);
    std::vector<Readers> finer_readers(readers.size() * 2);
    for (size_t i = 0; i < finer.size(); ++i) {
      finer[i] = cells[i / 2];
      if (!readers.empty())
        std::copy_n(readers.begin() + long(i / 2 * of), of, finer_readers.begin() + long(i * of));
    }
    cells.swap(finer);
    readers.swap(finer_readers);
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

  // body(page, grain) for what [address, address + bytes) covers; one page may be refined first.
  template <class Body>
  void for_each_grain(uintptr_t address, size_t bytes, Body&& body) {
    for (const uintptr_t end = address + bytes; address < end;) {
      const uintptr_t start = address / kPageBytes * kPageBytes;
      const uintptr_t last = std::min(end, start + kPageBytes);
      Page& one = page(address);
      one.refine_for(address - start, last - start);
      for (uintptr_t at = address - start; at < last - start; at += uintptr_t(1) << one.shift)
        body(one, size_t(at >> one.shift));
      address = last;
    }
  }

 private:
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  uintptr_t last_number_ = 0;
  Page* last_ = nullptr;
};

}  // namespace thrifty::cuda::host::race
