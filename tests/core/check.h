// The harness of the C++ tests. A test is a function; EXPECT notes what is wrong and goes on, and
// main returns run_tests({{"name", function}, ...}).
#pragma once

#include <chrono>
#include <cstdio>
#include <exception>
#include <initializer_list>
#include <stdexcept>
#include <string>

#include "core/error.h"

namespace thrifty::test {

inline int failures = 0;

inline void note(const char* file, int line, const char* condition, const std::string& detail) {
  if (++failures > 20) return;  // the first ones tell
  std::fprintf(stderr, "%s:%d: %s is false  %s\n", file, line, condition, detail.c_str());
}

struct Test {
  const char* name;
  void (*body)();
};

inline int run_tests(std::initializer_list<Test> tests) {
  for (const Test& test : tests) {
    const int before = failures;
    const auto start = std::chrono::steady_clock::now();
    try {
      test.body();
    } catch (const std::exception& error) {
      note(__FILE__, __LINE__, "no exception", error.what());
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%-6s %s (%.1f s)\n", failures == before ? "ok" : "FAILED", test.name,
                took.count());
    std::fflush(stdout);
  }
  if (failures > 0) std::fprintf(stderr, "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}

// The message of the std::invalid_argument that `body` throws; "" when it throws none.
template <class Body>
std::string refusal(const Body& body) {
  try {
    body();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "";
}

}  // namespace thrifty::test

// EXPECT(got == want, "n = ", n): what follows the condition is printed when it does not hold.
#define EXPECT(condition, ...)                                      \
  do {                                                              \
    if (!(condition)) {                                             \
      ::thrifty::test::note(__FILE__, __LINE__, #condition,         \
                            concat("" __VA_OPT__(, ) __VA_ARGS__)); \
    }                                                               \
  } while (false)
