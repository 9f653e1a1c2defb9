// The tables of every instruction set that this machine runs, and under the sanitizers of two
// builds for tests only (CMakeLists.txt): `wide`, AVX-512's vectors, and `amx_twin`, AMX's tiles as
// plain loops.
#pragma once

#include <vector>

#include "core/gemm.h"
#include "core/logits.h"
#include "drafting/ngram_kernels.h"
#include "ensemble/rows.h"
#include "moe/tiles.h"
#include "sampling/bitmask.h"

#define THRIFTY_TEST_TABLES(isa)                     \
  namespace thrifty::isa {                           \
  extern const GemmTable gemm_table;                 \
  extern const ensemble::RowTable ensemble_rows;     \
  extern const LogitsTable logits_table;             \
  extern const sampling::BitmaskTable bitmask_table; \
  extern const moe::TileTable moe_tiles;             \
  extern const drafting::NgramKernels ngram_kernels; \
  }
#ifdef THRIFTY_TEST_TWINS
THRIFTY_TEST_TABLES(wide)
THRIFTY_TEST_TABLES(amx_twin)
#endif

namespace thrifty::test {

struct Tables {
  const char* isa;
  const GemmTable& gemm;
  const ensemble::RowTable& rows;
  const LogitsTable& logits;
  const sampling::BitmaskTable& bitmask;
  const moe::TileTable& tiles;
  const drafting::NgramKernels& ngrams;
};

#define THRIFTY_TABLES_OF(isa)                                                        \
  Tables {                                                                            \
    #isa, isa::gemm_table, isa::ensemble_rows, isa::logits_table, isa::bitmask_table, \
        isa::moe_tiles, isa::ngram_kernels                                            \
  }

inline std::vector<Tables> all_tables() {
  std::vector<Tables> all{THRIFTY_TABLES_OF(baseline)};
#ifdef THRIFTY_TEST_TWINS
  all.push_back(THRIFTY_TABLES_OF(wide));
  all.push_back(THRIFTY_TABLES_OF(amx_twin));
#endif
#ifdef THRIFTY_X86
  const Isa best = active_isa();
  if (best >= Isa::kAvx2) all.push_back(THRIFTY_TABLES_OF(avx2));
  if (best >= Isa::kAvx512) all.push_back(THRIFTY_TABLES_OF(avx512));
  if (best >= Isa::kAmx) all.push_back(THRIFTY_TABLES_OF(amx));
#endif
  return all;
}

constexpr Dtype kStorageDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16,
                                    Dtype::kFloat64};

// What the matrix product of one table and storage format reads and writes.
inline Dtype operand_dtype(const GemmKernels& gemm) {
  return gemm.operand_size == 2   ? Dtype::kBFloat16
         : gemm.operand_size == 4 ? Dtype::kFloat32
                                  : Dtype::kFloat64;
}
inline Dtype accumulator_dtype(const GemmKernels& gemm) {
  return gemm.accumulator_size == 8 ? Dtype::kFloat64 : Dtype::kFloat32;
}

}  // namespace thrifty::test
