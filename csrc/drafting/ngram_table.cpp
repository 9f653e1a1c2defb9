#include "drafting/ngram_table.h"

#include <bit>

#include "core/error.h"

namespace thrifty::drafting {
namespace {

NgramOptions checked(NgramOptions options) {
  const auto expect = [](bool good, const char* name, const char* what, const auto& got) {
    THRIFTY_CHECK(good, "NgramTable: ", name, ": expected ", what, ", got ", got);
  };
  expect(options.capacity >= 1 && options.capacity <= int64_t(1) << 36, "capacity", "1 to 2^36",
         options.capacity);
  expect(options.k >= 1 && options.k <= kMaxK, "k", "1 to 14", options.k);
  expect(options.n_min >= 1, "n_min", "a number >= 1", options.n_min);
  expect(options.n_max >= options.n_min && options.n_max <= kMaxOrder, "n_max",
         "a number from n_min to 8", options.n_max);
  expect(options.count_cap >= 1 && options.count_cap <= 1 << 24, "count_cap", "1 to 2^24",
         options.count_cap);
  expect(options.vocab_size >= 0 && options.vocab_size <= INT32_MAX, "vocab_size",
         "a number below 2^31", options.vocab_size);
  expect(options.vocab.size() <= NgramHeader::kVocabBytes, "vocab", "at most 256 bytes",
         options.vocab.size());
  expect(options.vocab.find('\0') == std::string::npos, "vocab", "text without NUL", "one");
  options.capacity = int64_t(std::bit_ceil(uint64_t(std::max<int64_t>(options.capacity, 64))));
  return options;
}

}  // namespace

NgramTable::NgramTable(const NgramOptions& options)
    : NgramTable(std::make_unique<NgramStore>(checked(options))) {}

NgramTable::NgramTable(std::unique_ptr<NgramStore> store)
    : store_(std::move(store)),
      n_min_(int(store_->header().n_min)),
      n_max_(int(store_->header().n_max)) {}

}  // namespace thrifty::drafting
