// The test frame on the host: memory is malloc's, every body runs under all schedules.
#include <cstdlib>
#include <cstring>

#include "hostcuda/harness.h"
#include "hostcuda/options.h"
#include "hostcuda/runtime.h"

// Frames of a launch that failed are abandoned, with what they own.
extern "C" __attribute__((visibility("default"))) const char* __asan_default_options() {
  return "detect_leaks=0";
}

namespace thrifty::cuda::testing {

const char* missing_device() { return nullptr; }
void needs_sm90() {}
void after_test() { host::options() = {}; }

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

}  // namespace thrifty::cuda::testing
