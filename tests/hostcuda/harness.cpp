// The test frame on the host: memory is malloc's, every body runs under all schedules.
#include "hostcuda/harness.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "hostcuda/options.h"
#include "hostcuda/runtime.h"

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
  try {
    test.body();
  } catch (const std::exception& error) {
    failure = error.what();
  }
  host::options() = {};
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("%s %-44s %6.2f s%s%s\n", failure.empty() ? "ok  " : "FAIL", test.name,
              seconds.count(), failure.empty() ? "" : "\n     ", failure.c_str());
  std::fflush(stdout);
  return failure.empty();
}

}  // namespace

Registration::Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }

int run_tests(int argc, char** argv) {
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

void* allocate_global(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
  host::fill_poison(memory, bytes);
  return memory;
}
void free_global(void* memory) { std::free(memory); }
void copy_to_global(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
void copy_from_global(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

namespace {

void run_schedules(const std::vector<host::Schedule>& schedules,
                   const std::function<Bytes()>& body) {
  Bytes first;
  bool have_first = false;
  const auto run = [&](const host::Schedule& schedule, uint16_t poison) {
    host::options().schedule = schedule;
    host::options().poison = poison;
    try {
      Bytes bytes = body();
      if (have_first) expect(bytes == first, "the result differs from that of the first schedule");
      first = std::move(bytes);
      have_first = true;
    } catch (const std::exception& error) {
      throw Failure("schedule " + schedule.name() + ": " + error.what());
    }
  };
  // The second poison is a small number in every type: it shows where NaN would go unnoticed.
  run({}, 0x0102);
  for (const host::Schedule& schedule : schedules) run(schedule, 0x7fff);
}

}  // namespace

void for_each_schedule(const std::function<Bytes()>& body) {
  run_schedules(host::schedules(), body);
}

void for_few_schedules(const std::function<Bytes()>& body) {
  run_schedules(host::schedules(2, 2), body);
}

void for_each_schedule_inexact(const std::function<void()>& body) {
  for_each_schedule([&] {
    body();
    return Bytes();
  });
}

void expect_fault(const std::string& text, const std::function<void()>& body) {
  try {
    body();
  } catch (const host::Fault& fault) {
    expect(std::string(fault.what()).find(text) != std::string::npos,
           "expected a fault with \"" + text + "\", got: " + fault.what());
    return;
  }
  throw Failure("expected a fault with \"" + text + "\", got none");
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
