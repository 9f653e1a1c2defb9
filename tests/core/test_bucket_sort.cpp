// The stable counting sort against the definition, for every type of number and several blocks.
#include <type_traits>
#include <vector>

#include "check.h"
#include "core/bucket_sort.h"
#include "numbers.h"

namespace thrifty::test {
namespace {

template <class Id>
void check_sort(Dtype dtype, int64_t rows, int64_t n, int64_t buckets, Random& random) {
  std::vector<Id> ids(size_t(rows * n));
  const int64_t below = std::is_signed_v<Id> ? 2 : 0;
  for (Id& id : ids) id = Id(int64_t(random.bits() % uint64_t(buckets + 4)) - below);
  Array array{.data = ids.data(), .dtype = dtype, .ndim = 2};
  array.shape = {rows, n}, array.strides = {n, 1};
  for (const ParallelFor parallel : {serial, pool}) {
    std::vector<int32_t> order(ids.size(), -1), inverse(ids.size(), -1);
    std::vector<int32_t> offsets(size_t(rows * (buckets + 1)), -1);
    bucket_sort(array, rows, n, buckets, order.data(), offsets.data(), inverse.data(), parallel);
    for (int64_t r = 0; r < rows; ++r) {
      int64_t at = 0;
      for (int64_t b = 0; b <= buckets; ++b) {
        EXPECT(offsets[size_t(r * (buckets + 1) + b)] == at, "bucket ", b, " of row ", r);
        for (int64_t i = 0; i < n; ++i) {
          const int64_t id = int64_t(ids[size_t(r * n + i)]);
          if ((id >= 0 && id < buckets ? id : buckets) != b) continue;
          EXPECT(order[size_t(r * n + at)] == i, "position ", at, " of row ", r);
          EXPECT(inverse[size_t(r * n + i)] == at, "inverse ", i, " of row ", r);
          ++at;
        }
      }
    }
  }
}

void sorts() {
  Random random(1);
  set_num_threads(3);
  for (const int64_t n : {0, 1, 7, 1000, 20000}) {
    for (const int64_t buckets : {1, 3, 20}) {
      check_sort<int32_t>(Dtype::kInt32, 2, n, buckets, random);
      check_sort<int64_t>(Dtype::kInt64, 1, n, buckets, random);
      check_sort<uint8_t>(Dtype::kUInt8, 3, n, buckets, random);
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() { return thrifty::test::run_tests({{"sorts", thrifty::test::sorts}}); }
