// The test frame: registration, selection, timing, comparisons. The parts that differ between host
// and device are in harness_host.cpp and harness_device.cu.
#include "hostcuda/harness.h"

#include <chrono>
#include <cmath>
#include <cstdio>

namespace thrifty::cuda::testing {

namespace {

struct Test {
  const char* name;
  void (*body)();
};
std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

bool selected(const std::string& name, int argc, char** argv) {
  if (argc < 2) return true;
  for (int i = 1; i < argc; ++i)
    if (name.find(argv[i]) != std::string::npos) return true;
  return false;
}

bool run_one(const Test& test) {
  const auto start = std::chrono::steady_clock::now();
  std::string failure;
  const char* result = "ok  ";
  try {
    test.body();
  } catch (const Skipped& reason) {
    result = reason.what();
  } catch (const std::exception& error) {
    result = "FAIL";
    failure = error.what();
  }
  after_test();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s %-44s %6.2f s%s%s\n", result, test.name, seconds.count(),
              failure.empty() ? "" : "\n     ", failure.c_str());
  std::fflush(stdout);
  return failure.empty();
}

}  // namespace

Registration::Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }

int run_tests(int argc, char** argv) {
  if (const char* reason = missing_device()) {
    std::printf("skipped: %s\n", reason);
    return kSkippedExit;
  }
  if (argc == 2 && std::string(argv[1]) == "--list") {
    for (const Test& test : tests()) std::printf("%s\n", test.name);
    return 0;
  }
  int ran = 0, failed = 0;
  for (const Test& test : tests()) {
    if (!selected(test.name, argc, argv)) continue;
    ++ran;
    failed += !run_one(test);
  }
  std::printf("%d tests, %d failed\n", ran, failed);
  return ran == 0 || failed > 0;
}

void expect(bool condition, const std::string& what) {
  if (!condition) throw Failure(what);
}

void expect_ok(cudaError_t error) {
  expect(error == cudaSuccess, "cudaError " + std::to_string(int(error)));
}

void expect_close(const std::vector<double>& actual, const std::vector<double>& expected,
                  double absolute, double relative, const std::string& what) {
  expect(actual.size() == expected.size(), what + ": sizes differ");
  for (size_t i = 0; i < actual.size(); ++i)
    if (!(std::fabs(actual[i] - expected[i]) <= absolute + relative * std::fabs(expected[i]))) {
      char text[160];
      std::snprintf(text, sizeof(text), ": element %zu is %.9g, expected %.9g", i, actual[i],
                    expected[i]);
      throw Failure(what + text);
    }
}

}  // namespace thrifty::cuda::testing

int main(int argc, char** argv) { return thrifty::cuda::testing::run_tests(argc, argv); }
