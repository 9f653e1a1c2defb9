// Hands out pieces of one block of scratch memory; without a base it only counts, so that one plan
// says how much it needs and where everything is.
#pragma once

#include <cstddef>

#include "core/scratch.h"

namespace thrifty {

class ScratchArena {
 public:
  explicit ScratchArena(void* base) : base_(static_cast<std::byte*>(base)) {}
  void* take(int64_t bytes) {
    void* const at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(bytes, 256);
    return at;
  }
  int64_t used() const { return used_; }

 private:
  std::byte* base_;
  int64_t used_ = 0;
};

}  // namespace thrifty
