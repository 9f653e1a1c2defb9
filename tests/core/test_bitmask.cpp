// bitmask.h on every instruction set: each logit keeps its bits or is -inf, nothing beside it is
// written.
#include "sampling/bitmask.h"

#include "check.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

void words() {
  Random random(1);
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16}) {
      for (const int64_t n : {0, 1, 31, 32, 33, 64, 95, 1000}) {
        Guarded logits(dtype, n, [&] { return random.uniform(-9, 9); });
        const Guarded before = logits;
        std::vector<uint32_t> mask(size_t(n + 31) / 32);
        for (size_t w = 0; w < mask.size(); ++w) {
          mask[w] = w % 4 == 1 ? 0 : w % 4 == 2 ? ~0u : uint32_t(random.bits());
        }
        tables.bitmask.apply[int(dtype)](n, mask.data(), logits.data());
        for (int64_t i = 0; i < n; ++i) {
          const bool allowed = mask[size_t(i / 32)] >> (i % 32) & 1;
          EXPECT(logits[i] == (allowed ? before[i] : -INFINITY), tables.isa, " ", dtype_name(dtype),
                 ": ", i, " of ", n, " is ", logits[i]);
        }
        EXPECT(logits.intact(), tables.isa, ": n = ", n);
      }
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() { return thrifty::test::run_tests({{"words", thrifty::test::words}}); }
