// expect_caught: a planted bug must be found, in a child process because AddressSanitizer ends it.
//
// Found means a Fault, a sanitizer's report, or results that are wrong or differ between schedules.
// Each bug says for both builds what the report contains; nullptr where that build cannot see it.
#pragma once

#include <functional>

#include "hostcuda/harness.h"

namespace thrifty::cuda::testing {

struct Report {
  const char* asan;
  const char* race;
};

// `body` runs the kernel under all schedules and checks its results.
void expect_caught(const Report& report, const std::function<void()>& body);

inline constexpr const char* kWrong = "";  // any report: wrong or disagreeing results among them
inline constexpr const char* kUnseen = nullptr;

}  // namespace thrifty::cuda::testing
