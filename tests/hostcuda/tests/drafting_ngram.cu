// The table in the device's memory against the CPU's: the same slots after updates, the same
// drafts.
#include <cstring>
#include <memory>
#include <random>

#include "drafting/ngram_cuda.h"
#include "hostcuda/harness.h"

namespace thrifty::drafting::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

constexpr int64_t kOrder = 3;

NgramOptions options(int64_t capacity) {
  NgramOptions o;
  o.capacity = capacity, o.k = 5, o.n_min = 1, o.n_max = kOrder, o.count_cap = 6, o.seed = 3;
  return o;
}

DeviceTable device(Buffer<unsigned char>& region, int64_t capacity) {
  return {reinterpret_cast<char*>(region.data()), capacity, 5, 1, kOrder, 6, 3};
}

// Contexts over few tokens, so that many repeat, with their followers.
struct Batch {
  Batch(int64_t rows, unsigned seed) : rows(rows) {
    std::mt19937 random(seed);
    std::vector<int32_t> t, l, i;
    std::vector<float> p;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < kOrder; ++j) t.push_back(int32_t(random() % 4));
      l.push_back(int32_t(random() % (kOrder + 1)));
      const auto width = random() % 7;
      float left = 1;
      const auto first = random() % 20;
      for (unsigned j = 0; j < 6; ++j) {
        left /= 2;
        i.push_back(j < width ? int32_t((first + 7 * j) % 50) : -1);
        p.push_back(j < width ? left : 0);
      }
    }
    tails = std::make_unique<Buffer<int32_t>>(t), lens = std::make_unique<Buffer<int32_t>>(l);
    ids = std::make_unique<Buffer<int32_t>>(i), probs = std::make_unique<Buffer<float>>(p);
  }
  Contexts contexts() const { return {tails->data(), rows, kOrder, lens->data()}; }
  Followers followers() const { return {ids->data(), probs->data(), 6}; }

  int64_t rows;
  std::unique_ptr<Buffer<int32_t>> tails, lens, ids;
  std::unique_ptr<Buffer<float>> probs;
};

std::vector<unsigned char> region_of(const NgramTable& table) {
  const char* region = table.store().region();
  return {region, region + table.store().bytes()};
}

// Keys and slots but for their versions, as far as a slot's pairs go.
void expect_same_tables(const std::vector<unsigned char>& got,
                        const std::vector<unsigned char>& want, int64_t capacity) {
  const auto word = [&](const std::vector<unsigned char>& bytes, int64_t slot, int64_t i) {
    uint32_t value;
    std::memcpy(&value, &bytes[size_t(kHeaderBytes + capacity * 8 + slot * 56 + i * 4)], 4);
    return value;
  };
  expect(std::memcmp(&got[kHeaderBytes], &want[kHeaderBytes], size_t(capacity) * 8) == 0, "keys");
  for (int64_t slot = 0; slot < capacity; ++slot) {
    const uint32_t m = word(want, slot, 3);
    for (int64_t i = 1; i < 4; ++i) {
      expect(word(got, slot, i) == word(want, slot, i),
             "slot " + std::to_string(slot) + ", word " + std::to_string(i));
    }
    for (uint32_t i = 0; i < m; ++i) {
      expect(word(got, slot, 4 + i) == word(want, slot, 4 + i), "id");
      expect(word(got, slot, 9 + i) == word(want, slot, 9 + i), "probability");
    }
  }
  const auto counters = [](const std::vector<unsigned char>& bytes) {
    NgramHeader header;
    std::memcpy(&header, bytes.data(), sizeof(header));
    return std::vector<uint64_t>{header.clock, header.used, header.updates, header.evictions};
  };
  expect(counters(got) == counters(want), "counters");
}

std::vector<unsigned char> updated(int64_t capacity, const std::vector<const Batch*>& batches) {
  Buffer<unsigned char> region(region_of(NgramTable(options(capacity))));
  const DeviceTable table = device(region, capacity);
  for (const Batch* batch : batches) {
    Buffer<unsigned char> scratch(size_t(ngram_update_scratch(table, batch->rows)));
    expect_ok(
        ngram_update(table, batch->contexts(), batch->followers(), scratch.data(), nullptr).error);
  }
  return region.values();
}

}  // namespace

TEST(ngram_update_is_the_cpus) {
  const Batch first(90, 1), second(40, 2);
  for (const int64_t capacity : {512, 64}) {  // the small one evicts
    NgramTable table(options(capacity));
    table.update(first.contexts(), first.followers(), serial);
    table.update(second.contexts(), second.followers(), serial);
    expect_same_tables(updated(capacity, {&first, &second}), region_of(table), capacity);
  }
}

TEST(ngram_update_schedules) {
  const Batch batch(12, 3);
  for_each_schedule([&] {
    const auto bytes = updated(64, {&batch});
    return Bytes(bytes.begin(), bytes.end());
  });
}

TEST(ngram_wrong_input) {
  Batch batch(6, 4);
  std::vector<int32_t> lens = {-5, 2000000000, 3, 3, 3, 3};
  copy_to_global(batch.lens->data(), lens.data(), lens.size() * 4);
  std::vector<int32_t> ids = batch.ids->values();
  std::vector<float> probs = batch.probs->values();
  ids[12] = ids[13] = 9, ids[14] = INT32_MIN;
  probs[18] = NAN, probs[24] = -3, probs[30] = INFINITY;
  copy_to_global(batch.ids->data(), ids.data(), ids.size() * 4);
  copy_to_global(batch.probs->data(), probs.data(), probs.size() * 4);
  const auto bytes = updated(64, {&batch});
  for (int64_t slot = 0; slot < 64; ++slot) {
    uint32_t words[14];
    std::memcpy(words, &bytes[size_t(kHeaderBytes + 64 * 8 + slot * 56)], sizeof(words));
    expect(words[3] <= 5, "pairs of a slot");
    for (uint32_t i = 0; i < words[3]; ++i) {
      float prob;
      std::memcpy(&prob, &words[9 + i], 4);
      expect(int32_t(words[4 + i]) >= 0 && prob > 0 && prob <= 1.001f, "a pair");
      for (uint32_t j = 0; j < i; ++j) expect(words[4 + i] != words[4 + j], "distinct ids");
    }
  }
}

namespace {

struct Draft {
  Draft(int64_t batch, int64_t nodes)
      : tokens(size_t(batch * nodes)),
        parents(size_t(batch * nodes)),
        first_child(size_t(batch * nodes)),
        next_sibling(size_t(batch * nodes)),
        depths(size_t(batch * nodes)),
        slots(size_t(batch * nodes)),
        sizes(size_t(batch)),
        q_ids(size_t(batch * nodes * 5)),
        ancestors(size_t(batch * nodes * ((nodes + 63) / 64))),
        q(size_t(batch * nodes * 5)) {}
  DraftArrays arrays() {
    return {tokens.data(), parents.data(),   first_child.data(), next_sibling.data(), depths.data(),
            slots.data(),  ancestors.data(), sizes.data(),       q_ids.data(),        q.data()};
  }
  Buffer<int32_t> tokens, parents, first_child, next_sibling, depths, slots, sizes, q_ids;
  Buffer<int64_t> ancestors;
  Buffer<float> q;
};

Bytes check_draft(const std::vector<int32_t>& parents, bool sample, float inv_temp) {
  const Batch learned(120, 5);
  NgramTable cpu(options(512));
  cpu.update(learned.contexts(), learned.followers(), serial);
  // Followers are tokens of contexts, too: a second batch whose tokens are among the ids.
  Batch more(60, 6);
  std::vector<int32_t> tails = more.tails->values();
  for (int32_t& token : tails) token = token * 7 % 50;
  copy_to_global(more.tails->data(), tails.data(), tails.size() * 4);
  cpu.update(more.contexts(), more.followers(), serial);
  Buffer<unsigned char> region(region_of(cpu));
  Batch tail(6, 7);
  std::vector<int32_t> lens = {3, 2, 1, 3, 3, 1};
  copy_to_global(tail.lens->data(), lens.data(), lens.size() * 4);
  const DraftTemplate shape(parents.data(), int64_t(parents.size()));
  Buffer<int32_t> child_begin(shape.child_begin), child_count(shape.child_count);
  Buffer<int64_t> seeds(std::vector<int64_t>{1, 2, 3, 4, 5, 6}),
      offsets(std::vector<int64_t>{9, 8, 7, int64_t(1) << 40, 5, 4});
  const DraftSettings settings{sample, inv_temp, seeds.data(), offsets.data()};
  Draft got(6, shape.size()), want(6, shape.size());
  expect_ok(ngram_draft(device(region, 512), tail.contexts(), child_begin.data(),
                        child_count.data(), shape.size(), settings, got.arrays(), nullptr)
                .error);
  cpu.draft(tail.contexts(), shape, {}, settings, want.arrays(), serial);
  expect(got.sizes.values() == want.sizes.values(), "sizes");
  expect(got.tokens.values() == want.tokens.values(), "tokens");
  expect(got.parents.values() == want.parents.values(), "parents");
  expect(got.first_child.values() == want.first_child.values(), "first_child");
  expect(got.next_sibling.values() == want.next_sibling.values(), "next_sibling");
  expect(got.depths.values() == want.depths.values(), "depths");
  expect(got.slots.values() == want.slots.values(), "slots");
  expect(got.ancestors.values() == want.ancestors.values(), "ancestors");
  expect(got.q_ids.values() == want.q_ids.values(), "q_ids");
  expect_close(got.q, doubles(want.q.values()), 1e-6, 1e-6, "q");
  return got.tokens.bytes();
}

}  // namespace

TEST(ngram_draft_is_the_cpus) {
  const std::vector<int32_t> tree = {-1, 0, 0, 0, 1, 1, 2, 4, 4, 5, 7};
  std::vector<int32_t> wide = {-1};
  for (int parent = 0; parent < 30; ++parent) wide.insert(wide.end(), 5, parent);
  for (const bool sample : {true, false}) {
    check_draft(tree, sample, 1);
    check_draft(wide, sample, 1);
  }
  check_draft(tree, true, 1.7f);
  check_draft({-1}, true, 1);
}

TEST(ngram_draft_schedules) {
  for_each_schedule([] { return check_draft({-1, 0, 0, 1, 1, 2}, true, 1); });
}

}  // namespace thrifty::drafting::cuda::testing
