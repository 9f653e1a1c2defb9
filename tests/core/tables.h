// The tables of every instruction set that this machine runs, and of the two builds for tests only
// (CMakeLists.txt): `wide`, AVX-512's vectors, and `amx_twin`, AMX's tiles as plain loops.
#pragma once

#include <vector>

#include "core/gemm.h"
#include "ensemble/rows.h"

#define THRIFTY_TEST_TABLES(isa)                 \
  namespace thrifty::isa {                       \
  extern const GemmTable gemm_table;             \
  extern const ensemble::RowTable ensemble_rows; \
  }
THRIFTY_TEST_TABLES(wide)
THRIFTY_TEST_TABLES(amx_twin)

namespace thrifty::test {

struct Tables {
  const char* isa;
  const GemmTable& gemm;
  const ensemble::RowTable& rows;
};

inline std::vector<Tables> all_tables() {
  std::vector<Tables> all{{"baseline", baseline::gemm_table, baseline::ensemble_rows},
                          {"wide", wide::gemm_table, wide::ensemble_rows},
                          {"amx_twin", amx_twin::gemm_table, amx_twin::ensemble_rows}};
#ifdef THRIFTY_X86
  const Isa best = active_isa();
  if (best >= Isa::kAvx2) all.push_back({"avx2", avx2::gemm_table, avx2::ensemble_rows});
  if (best >= Isa::kAvx512) all.push_back({"avx512", avx512::gemm_table, avx512::ensemble_rows});
  if (best >= Isa::kAmx) all.push_back({"amx", amx::gemm_table, amx::ensemble_rows});
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
