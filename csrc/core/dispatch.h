// Which instruction set runs: chosen once, the best that CPU and system allow, capped by
// THRIFTY_ISA.
//
// A file `x_isa.cpp` is compiled once per instruction set into namespace thrifty::<isa>, where it
// defines one table of function pointers and nothing else that is visible. THRIFTY_ISA_TABLE
// declares those tables and the function that picks among them, so one machine tests every set it
// has: THRIFTY_ISA=baseline|avx2|avx512|amx.
#pragma once

namespace thrifty {

enum class Isa { kBaseline, kAvx2, kAvx512, kAmx };

Isa active_isa();  // throws std::invalid_argument when THRIFTY_ISA names no instruction set
const char* isa_name(Isa isa);

template <class Table>
const Table& pick(const Table& baseline, const Table& avx2, const Table& avx512, const Table& amx) {
  switch (active_isa()) {
    case Isa::kAmx: return amx;
    case Isa::kAvx512: return avx512;
    case Isa::kAvx2: return avx2;
    default: return baseline;
  }
}

}  // namespace thrifty

#ifdef THRIFTY_X86
#define THRIFTY_ISA_TABLE(Table, name)                                                             \
  namespace thrifty::baseline {                                                                    \
  extern const Table name;                                                                         \
  }                                                                                                \
  namespace thrifty::avx2 {                                                                        \
  extern const Table name;                                                                         \
  }                                                                                                \
  namespace thrifty::avx512 {                                                                      \
  extern const Table name;                                                                         \
  }                                                                                                \
  namespace thrifty::amx {                                                                         \
  extern const Table name;                                                                         \
  }                                                                                                \
  namespace thrifty {                                                                              \
  inline const Table& name() { return pick(baseline::name, avx2::name, avx512::name, amx::name); } \
  }
#else
#define THRIFTY_ISA_TABLE(Table, name)                  \
  namespace thrifty::baseline {                         \
  extern const Table name;                              \
  }                                                     \
  namespace thrifty {                                   \
  inline const Table& name() { return baseline::name; } \
  }
#endif
