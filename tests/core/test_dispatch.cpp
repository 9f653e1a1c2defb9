// THRIFTY_ISA and the choice of the instruction set. The choice is made once per process, so each
// case runs in a child of its own.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

#include "check.h"
#include "tables.h"

namespace thrifty::test {
namespace {

// What `body` returns in a child where THRIFTY_ISA is `value` (null: not set).
template <class Body>
int in_child(const char* value, const Body& body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    value != nullptr ? setenv("THRIFTY_ISA", value, 1) : unsetenv("THRIFTY_ISA");
    try {
      _exit(body());
    } catch (...) {
      _exit(99);
    }
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int chosen(const char* value) {
  return in_child(value, [] { return int(active_isa()); });
}

constexpr const char* kNames[] = {"baseline", "avx2", "avx512", "amx"};

bool cpu_has(const char* flag) {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("flags", 0) != 0) continue;
    std::istringstream words(line);
    for (std::string word; words >> word;) {
      if (word == flag) return true;
    }
    return false;
  }
  return false;
}

void names() {
  for (int i = 0; i < 4; ++i) EXPECT(std::string(isa_name(Isa(i))) == kNames[i], i);
}

// The system's own list of features. AMX also needs the kernel's permission, so it may be missing
// although the processor has it.
void best_is_what_the_machine_has() {
  const int best = chosen(nullptr);
  EXPECT(best >= 0 && best <= int(Isa::kAmx), best);
  const bool avx2 = cpu_has("avx2") && cpu_has("fma") && cpu_has("f16c");
  const bool avx512 = avx2 && cpu_has("avx512f") && cpu_has("avx512bw") && cpu_has("avx512dq") &&
                      cpu_has("avx512vl");
  EXPECT((best >= int(Isa::kAvx2)) == avx2, "best is ", best);
  EXPECT((best >= int(Isa::kAvx512)) == avx512, "best is ", best);
  EXPECT(best < int(Isa::kAmx) || (cpu_has("amx_tile") && cpu_has("amx_bf16")), "best is ", best);
  EXPECT(chosen("") == best);
}

void cap() {
  const int best = chosen(nullptr);
  for (int i = 0; i < 4; ++i) {
    EXPECT(chosen(kNames[i]) == std::min(i, best), kNames[i], ": got ", chosen(kNames[i]));
  }
}

void unknown_value() {
  for (const char* value : {"sse9", "AVX2", " ", "avx2,avx512"}) {
    const int status = in_child(value, [value] {
      const std::string want =
          concat("THRIFTY_ISA: expected baseline, avx2, avx512 or amx, got ", value);
      const std::string first = refusal([] { active_isa(); });
      const std::string second = refusal([] { gemm_table(); });
      if (first != want) std::fprintf(stderr, "got: %s\n", first.c_str());
      return first == want && second == want ? 0 : 1;
    });
    EXPECT(status == 0, "'", value, "': status ", status);
  }
}

void tables_follow() {
  const int baseline = in_child("baseline", [] {
    return &gemm_table() == &baseline::gemm_table && &ensemble_rows() == &baseline::ensemble_rows;
  });
  EXPECT(baseline == 1);
#ifdef THRIFTY_X86
  const GemmTable* const tables[] = {&baseline::gemm_table, &avx2::gemm_table, &avx512::gemm_table,
                                     &amx::gemm_table};
  const int best = chosen(nullptr);
  for (int i = 0; i < 4; ++i) {
    const GemmTable* want = tables[std::min(i, best)];
    EXPECT(in_child(kNames[i], [want] { return &gemm_table() == want; }) == 1, kNames[i]);
  }
#endif
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"names", names},
                    {"best is what the machine has", best_is_what_the_machine_has},
                    {"cap", cap},
                    {"unknown value", unknown_value},
                    {"tables follow", tables_follow}});
}
