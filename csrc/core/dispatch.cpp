#include "core/dispatch.h"

#include <cstdlib>
#include <cstring>

#include "core/error.h"

#if defined(THRIFTY_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace thrifty {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "amx"};

#ifdef THRIFTY_X86
// Linux hands the 8 KB of tile registers out on request, once per process (arch_prctl(2),
// ARCH_REQ_XCOMP_PERM).
bool request_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

Isa best_isa() {
  __builtin_cpu_init();
  if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("f16c"))) {
    return Isa::kBaseline;
  }
  if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))) {
    return Isa::kAvx2;
  }
  unsigned a = 7, b, c = 0, d;  // CPUID leaf 7: EDX bit 22 AMX-BF16, bit 24 AMX-TILE
  asm("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  const bool has_tiles = (d >> 22 & 1) && (d >> 24 & 1);
  const bool has_amx = has_tiles && __builtin_cpu_supports("avx512bf16") && request_tiles();
  return has_amx ? Isa::kAmx : Isa::kAvx512;
}
#else
Isa best_isa() { return Isa::kBaseline; }
#endif

Isa capped_isa() {
  const Isa best = best_isa();
  const char* cap = std::getenv("THRIFTY_ISA");
  if (cap == nullptr || *cap == '\0') return best;
  for (int i = 0; i < 4; ++i) {
    if (std::strcmp(cap, kNames[i]) == 0) return i < int(best) ? Isa(i) : best;
  }
  fail("THRIFTY_ISA: expected baseline, avx2, avx512 or amx, got ", cap);
}

}  // namespace

Isa active_isa() {
  static const Isa isa = capped_isa();
  return isa;
}

const char* isa_name(Isa isa) { return kNames[int(isa)]; }

}  // namespace thrifty
