// The tile kernels of csrc/moe on every instruction set, for all storage formats and odd sizes,
// against loops in double. Numbers are multiples of 1/4 whose sums are exact, so results must be
// equal, and nothing beside them may change (guarded.h). Activations: test_moe_layer.cpp.
#include "check.h"
#include "guarded.h"
#include "moe/tiles.h"
#include "tables.h"

namespace thrifty::test {
namespace {

using moe::Gate;
using moe::Phi;
using moe::TileKernels;

constexpr int64_t kLengths[] = {0, 1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65, 129};

struct Kit {
  const char* isa;
  Dtype storage, sums, operand;
  const TileKernels& tiles;
};

template <class Body>
void for_all(const Body& body) {
  Random random(1);
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : kStorageDtypes) {
      const GemmKernels& gemm = tables.gemm.storage[int(dtype)];
      body(Kit{tables.isa, dtype, accumulator_dtype(gemm), operand_dtype(gemm),
               tables.tiles.storage[int(dtype)]},
           random);
    }
  }
}

template <class Want>
void expect(const Kit& kit, const char* what, int64_t n, const Guarded& got, const Want& want) {
  EXPECT(got.intact(), kit.isa, " ", dtype_name(kit.storage), " ", what, " ", n, ": wrote beside");
  for (int64_t i = 0; i < got.size(); ++i) {
    const double w = want(i);
    if (got[i] == w || (std::isnan(w) && std::isnan(got[i]))) continue;
    EXPECT(got[i] == w, kit.isa, " ", dtype_name(kit.storage), " ", what, " ", n, ", element ", i,
           ": got ", got[i], ", want ", w);
    return;
  }
}

void rows() {
  for_all([](const Kit& kit, Random& random) {
    const auto quarter = [&] { return random.quarter(); };
    for (const int64_t n : kLengths) {
      const Guarded stored(kit.storage, n, quarter), sums(kit.sums, n, quarter),
          bias(kit.sums, n, quarter), scale(kit.sums, 1, [&] { return random.power(); });
      Guarded out(kit.sums, n), narrow(kit.storage, n), operand(kit.operand, n);
      kit.tiles.widen(n, stored.data(), out.data());
      expect(kit, "widen", n, out, [&](int64_t i) { return stored[i]; });
      kit.tiles.narrow(n, sums.data(), narrow.data());
      expect(kit, "narrow", n, narrow, [&](int64_t i) { return sums[i]; });
      kit.tiles.to_operand(n, stored.data(), operand.data());
      expect(kit, "to_operand", n, operand, [&](int64_t i) { return stored[i]; });
      kit.tiles.add(n, sums.data(), out.data());
      expect(kit, "add", n, out, [&](int64_t i) { return stored[i] + sums[i]; });
      kit.tiles.add_stored(n, stored.data(), out.data());
      expect(kit, "add_stored", n, out, [&](int64_t i) { return 2 * stored[i] + sums[i]; });
      for (int bits = 0; bits < 4; ++bits) {
        kit.tiles.scale_row(n, sums.data(), bits & 1 ? bias.data() : nullptr,
                            bits & 2 ? scale.data() : nullptr, out.data());
        expect(kit, "scale_row", n, out, [&](int64_t i) {
          return (sums[i] + (bits & 1 ? bias[i] : 0)) * (bits & 2 ? scale[0] : 1);
        });
        const Phi relu{Gate::kRelu, bool(bits & 2), 1, INFINITY};
        const void* added = bits & 1 ? bias.data() : nullptr;
        kit.tiles.up_row(relu, n, sums.data(), sums.data(), added, added, out.data());
        expect(kit, "up_row", n, out, [&](int64_t i) {
          const double z = sums[i] + (bits & 1 ? bias[i] : 0), gate = std::max(z, 0.0);
          return bits & 2 ? gate * z : gate;
        });
      }
    }
  });
}

// Products of one to nine tokens with weights that lie between other numbers.
void few() {
  constexpr int64_t kTokens = 9;
  for_all([](const Kit& kit, Random& random) {
    const auto quarter = [&] { return random.quarter(); };
    for (const int64_t rows : {1, 7, 8, 16, 17, 33, 50}) {
      for (const int64_t k : {1, 2, 15, 16, 31, 33, 64, 257}) {
        const Guarded x(kit.sums, kTokens * k, quarter);
        const int64_t tokens = 1 + int64_t(random.bits() % kTokens);
        for (const bool transposed : {false, true}) {
          const int64_t lines = transposed ? k : rows, length = transposed ? rows : k;
          const int64_t step = length + 3;
          Guarded w(kit.storage, (lines - 1) * step + length);  // NaN between the lines
          for (int64_t l = 0; l < lines; ++l) {
            for (int64_t i = 0; i < length; ++i) w.set(l * step + i, quarter());
          }
          Guarded c(kit.sums, (tokens - 1) * (rows + 2) + rows);
          kit.tiles.few(rows, tokens, k, w.data(), step, transposed, x.data(), k, c.data(),
                        rows + 2);
          expect(kit, transposed ? "few, transposed" : "few", k, c, [&](int64_t at) {
            const int64_t j = at / (rows + 2), i = at % (rows + 2);
            if (i >= rows) return double(NAN);
            double sum = 0;
            for (int64_t p = 0; p < k; ++p) {
              sum += w[transposed ? p * step + i : i * step + p] * x[j * k + p];
            }
            return sum;
          });
        }
      }
    }
  });
}

void untile() {
  for_all([](const Kit& kit, Random& random) {
    const auto quarter = [&] { return random.quarter(); };
    for (const int64_t rows : {1, 5, 16, 17, 40}) {
      for (const int64_t tokens : {1, 4, 15, 16, 33}) {
        const int64_t ld = round_up(tokens, 16), out_ld = rows + 1;
        const Guarded c(kit.sums, rows * ld, quarter), bias(kit.sums, rows, quarter),
            scale(kit.sums, tokens, [&] { return random.power(); });
        for (int bits = 0; bits < 4; ++bits) {
          Guarded out(kit.sums, (tokens - 1) * out_ld + rows);
          kit.tiles.untile(rows, tokens, c.data(), ld, bits & 1 ? bias.data() : nullptr,
                           bits & 2 ? scale.data() : nullptr, out.data(), out_ld);
          expect(kit, "untile", rows, out, [&](int64_t at) {
            const int64_t j = at / out_ld, i = at % out_ld;
            if (i >= rows) return double(NAN);
            return (c[i * ld + j] + (bits & 1 ? bias[i] : 0)) * (bits & 2 ? scale[j] : 1);
          });
        }
      }
    }
  });
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"rows", rows}, {"few", few}, {"untile", untile}});
}
