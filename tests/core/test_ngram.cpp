// The n-gram table: means and counts against a dict; look-ups and draws of every instruction set
// against plain loops, up to the last byte of the region.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "check.h"
#include "drafting/ngram_table.h"
#include "numbers.h"
#include "tables.h"

namespace thrifty::test {
namespace {

using namespace drafting;

NgramOptions options(int64_t capacity, int64_t k) {
  NgramOptions o;
  o.capacity = capacity, o.k = k, o.n_min = 1, o.n_max = 3, o.count_cap = 4, o.seed = 5;
  return o;
}

struct Rows {
  std::vector<int32_t> tails, ids;  // [rows, 3], [rows, width]
  std::vector<float> probs;
  int64_t width;

  Rows(int64_t rows, int64_t width, int32_t tokens, Random& random) : width(width) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int i = 0; i < 3; ++i) tails.push_back(int32_t(random.bits() % uint64_t(tokens)));
      float prob = 0.6f;
      const auto first = int32_t(random.bits() % 30);
      for (int32_t j = 0; j < width; ++j, prob *= 0.5f) {
        ids.push_back((first + 7 * j) % 40);  // 7 and 40 have no common divisor: distinct
        probs.push_back(prob);
      }
    }
  }
  Contexts contexts() const {
    return {.tails = tails.data(), .rows = int64_t(tails.size()) / 3, .stride = 3, .first_len = 3};
  }
  Followers followers() const { return {.ids = ids.data(), .probs = probs.data(), .width = width}; }
};

struct Mean {
  std::map<int32_t, double> probs;
  int64_t count = 0;
};

// k is all that there are: at a cut, means that are equal but for rounding would decide.
void means() {
  Random random(1);
  const Rows rows(300, 5, 4, random);
  NgramTable table(options(1 << 12, 14));
  table.update(rows.contexts(), rows.followers(), serial);
  std::map<std::vector<int32_t>, Mean> dict;
  for (size_t row = 0; row < 300; ++row) {
    for (int n = 1; n <= 3; ++n) {
      const auto end = rows.tails.begin() + int64_t(row) * 3 + 3;
      Mean& mean = dict[std::vector<int32_t>(end - n, end)];
      const double weight = 1.0 / double(std::min<int64_t>(mean.count, 4) + 1);
      for (auto& [id, prob] : mean.probs) prob *= 1 - weight;
      for (size_t j = 0; j < 5; ++j) {
        mean.probs[rows.ids[row * 5 + j]] += weight * double(rows.probs[row * 5 + j]);
      }
      ++mean.count;
    }
  }
  EXPECT(int64_t(table.header().used) == int64_t(dict.size()), "contexts ", table.header().used);
  for (const auto& [context, mean] : dict) {
    uint64_t keys[3];
    context_keys(table, context.data() + context.size(), int(context.size()), keys);
    const uint64_t key = keys[context.size() - 1];
    const int64_t slot = table.store().find(key);
    NgramEntry entry;
    const bool known = slot >= 0 && table.store().read(slot, key, entry);
    EXPECT(known && entry.count == mean.count, "count of a context of ", context.size());
    for (int i = 0; known && i < entry.m; ++i) {
      const auto found = mean.probs.find(entry.ids[i]);
      EXPECT(found != mean.probs.end(), "id ", entry.ids[i]);
      if (mean.probs.size() > 14 || found == mean.probs.end()) continue;
      EXPECT(std::abs(found->second - double(entry.probs[i])) < 1e-6, "mean ", entry.probs[i]);
    }
  }
}

// The definition of a draw, in doubles from first to last.
std::vector<int32_t> drawn(std::vector<double> p, const NgramEntry& entry, int count,
                           const uint32_t* words) {
  std::vector<int32_t> tokens;
  for (int r = 0; r < count; ++r) {
    double total = 0, sum = 0;
    for (const double share : p) total += share;
    const double target = (words[r] + 0.5) * 0x1p-32 * total;
    size_t pick = 0;
    for (; pick + 1 < p.size(); ++pick) {
      sum += p[pick];
      if (sum > target) break;
    }
    tokens.push_back(entry.ids[pick]);
    p[pick] = 0;
  }
  return tokens;
}

void check_draw(const Tables& tables, const NgramKernels::Place& place, const NgramEntry& entry,
                int k, float inv_temp, bool sample, Random& random) {
  const std::string what = concat(tables.isa, ", k = ", k, ", m = ", entry.m);
  uint32_t words[kMaxK];
  for (uint32_t& word : words) word = uint32_t(random.bits());
  const int64_t room = random.bits() % 2 ? k : 64;
  std::vector<int32_t> ids(size_t(room), -1);  // exactly so many: AddressSanitizer looks
  std::vector<float> q(size_t(room), 0);
  NgramKernels::Node node;
  node.place = place, node.k = k, node.wanted = 1 + int(random.bits() % kMaxK);
  node.sample = sample, node.inv_temp = inv_temp, node.words = words;
  node.q_ids = ids.data(), node.q = q.data(), node.room = room;
  const int count = tables.ngrams.draw(node);
  std::vector<double> p;
  double total = 0;
  for (int i = 0; i < entry.m; ++i) {
    const double ratio = double(entry.probs[i]) / double(entry.probs[0]);
    const double power = inv_temp == 1 ? double(entry.probs[i]) : std::pow(ratio, inv_temp);
    p.push_back(power), total += power;
  }
  EXPECT(count == std::min(node.wanted, entry.m), what, ": ", count, " children");
  const std::vector<int32_t> expected =
      sample ? drawn(p, entry, count, words) : std::vector<int32_t>(entry.ids, entry.ids + count);
  for (int r = 0; r < count; ++r) {
    EXPECT(node.tokens[r] == expected[size_t(r)], what, ": child ", r);
  }
  for (size_t i = 0; i < size_t(room); ++i) {
    const bool live = sample && i < p.size();
    EXPECT(ids[i] == (live ? entry.ids[i] : -1), what, ": q_ids ", i);
    EXPECT(std::abs(double(q[i]) - (live ? p[i] / total : 0)) < 1e-6, what, ": q ", i);
  }
}

void kernels() {
  Random random(2);
  for (int k = 1; k <= kMaxK; ++k) {
    // More contexts than slots, so that the last one is used; in memory that ends with it.
    const Rows rows(200, 1 + k % 5, 60, random), other(200, k, 60, random);
    NgramTable full(options(64, k));
    full.update(rows.contexts(), rows.followers(), serial);
    full.update(other.contexts(), other.followers(), serial);
    const auto bytes = size_t(full.store().bytes());
    std::unique_ptr<uint64_t[]> memory(new uint64_t[bytes / 8]);
    full.copy_to(memory.get());
    const NgramTable table = NgramTable::from_image(memory.get(), int64_t(bytes), true);
    const NgramKernels::Table views[2] = {{}, table.store().view()};
    for (const Tables& tables : all_tables()) {
      for (int64_t slot = 0; slot < 64; ++slot) {
        const uint64_t key = table.store().key(slot);
        NgramEntry entry;
        if (key == 0 || !table.store().read(slot, key, entry)) continue;
        // The longest known of three, the second table's where there is no first.
        const uint64_t keys[6] = {0, 0, 0, table.store().key((slot + 1) % 64), key, key ^ 1};
        NgramKernels::Place place;
        tables.ngrams.find(views, keys, 1, 3, 3, &place);
        EXPECT(place.key == key && place.key_at == views[1].keys + slot, tables.isa, ": slot ",
               slot);
        for (const float inv_temp : {1.0f, 1.7f}) {
          check_draw(tables, place, entry, k, inv_temp, true, random);
        }
        check_draw(tables, place, entry, k, 1, false, random);
      }
      const uint64_t unknown[6] = {0, 0, 0, 3, 5, 7};
      NgramKernels::Place place;
      tables.ngrams.find(views, unknown, 1, 3, 3, &place);
      EXPECT(place.slot == nullptr, tables.isa, ": an unknown key");
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"means", means}, {"kernels", kernels}});
}
