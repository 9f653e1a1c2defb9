// The thread pool: every index once, nested and simultaneous callers, exceptions, changes of the
// number of threads, fork. Built a second time under ThreadSanitizer where that runs.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "check.h"
#include "core/parallel.h"

namespace thrifty::test {
namespace {

int64_t triangle(int64_t n) { return n * (n - 1) / 2; }

int64_t sum_to(ParallelFor parallel, int64_t n) {
  std::atomic<int64_t> sum = 0;
  for_each(parallel, n, [&](int64_t i) { sum += i; });
  return sum;
}

void every_index_once() {
  for (const ParallelFor parallel : {serial, pool}) {
    for (int threads = 1; threads <= 5; ++threads) {
      set_num_threads(threads);
      for (const int64_t n : {0, 1, 2, 3, 4, 7, 64, 1000}) {
        std::vector<std::atomic<int>> visits(static_cast<size_t>(n));
        for_ranges(parallel, n, [&](int64_t begin, int64_t end) {
          EXPECT(0 <= begin && begin < end && end <= n, begin, "..", end, " of ", n);
          for (int64_t i = begin; i < end; ++i) ++visits[size_t(i)];
        });
        for (const auto& count : visits) EXPECT(count == 1, threads, " threads, n = ", n);
      }
    }
  }
}

// Each range waits until all have begun, which needs as many threads as ranges.
void threads_run_at_once() {
  set_num_threads(3);
  std::atomic<int> begun = 0;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  for_ranges(pool, 3, [&](int64_t, int64_t) {
    ++begun;
    while (begun < 3 && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  });
  EXPECT(begun == 3);
}

void nested_calls() {
  set_num_threads(3);
  std::atomic<int64_t> sum = 0;
  for_each(pool, 20, [&](int64_t) { sum += sum_to(pool, 50); });
  EXPECT(sum == 20 * triangle(50), sum);
}

void callers_at_once() {
  set_num_threads(3);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (int64_t n = 0; n < 300; ++n) {
        if (caller == 0 && n % 50 == 0) set_num_threads(int(2 + n / 50 % 3));
        wrong += sum_to(pool, n) != triangle(n);
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT(wrong == 0, wrong, " wrong sums");
}

void exceptions_come_back() {
  set_num_threads(4);
  for (const ParallelFor parallel : {serial, pool}) {
    std::atomic<int> ran = 0;
    const std::string message = refusal([&] {
      for_each(parallel, 4, [&](int64_t i) {
        ++ran;
        if (i == 3) fail("index ", i);
      });
    });
    EXPECT(message == "index 3", message);
    EXPECT(ran == 4, ran, " ran");
    EXPECT(!refusal([&] { for_each(parallel, 4, [](int64_t) { fail("all"); }); }).empty());
    EXPECT(sum_to(parallel, 100) == triangle(100));
  }
}

void number_of_threads() {
  set_num_threads(0);
  EXPECT(get_num_threads() == 1);
  set_num_threads(-3);
  EXPECT(get_num_threads() == 1);
  set_num_threads(3);
  EXPECT(get_num_threads() == 3);
}

bool is_child = false;

// Exit status of a forked child that runs `body`; a child that hangs is killed by its alarm.
template <class Body>
int status_of_child(const Body& body) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    is_child = true;
    alarm(30);
    body();
  }
  int status = -1;
  waitpid(child, &status, 0);
  return status;
}

// The parent's workers do not exist in the child: it must neither wait for them nor join them.
void forked_children() {
#ifndef __SANITIZE_THREAD__  // it does not follow a fork of several threads
  set_num_threads(3);
  EXPECT(sum_to(pool, 100) == triangle(100));
  const int after_use = status_of_child([] {
    const bool right = sum_to(pool, 100) == triangle(100);
    set_num_threads(2);
    std::exit(right && sum_to(pool, 1000) == triangle(1000) ? 0 : 1);
  });
  EXPECT(after_use == 0, "status ", after_use);
  const int unused = status_of_child([] { std::exit(0); });
  EXPECT(unused == 0, "status ", unused);
  EXPECT(sum_to(pool, 100) == triangle(100));
#endif
}

void turns_take_every_index_once() {
  for (const ParallelFor parallel : {serial, pool}) {
    std::vector<std::atomic<int>> taken(100);
    std::atomic<int> workers{0};
    for_turns(
        parallel, 100, [&] { return workers++; }, [&](int, int64_t i) { ++taken[size_t(i)]; });
    for (const auto& count : taken) EXPECT(count == 1, "taken ", count.load(), " times");
    EXPECT(workers >= 1);
    for_turns(parallel, 0, [&] { return workers++; }, [&](int, int64_t) { EXPECT(false); });
  }
}

}  // namespace
}  // namespace thrifty::test

// A child forgets the parent's pool on purpose.
extern "C" __attribute__((visibility("default"))) int __lsan_is_turned_off() {
  return thrifty::test::is_child;
}

int main() {
  using namespace thrifty::test;
  return run_tests({{"every index once", every_index_once},
                    {"threads run at once", threads_run_at_once},
                    {"nested calls", nested_calls},
                    {"callers at once", callers_at_once},
                    {"exceptions come back", exceptions_come_back},
                    {"number of threads", number_of_threads},
                    {"turns", turns_take_every_index_once},
                    {"forked children", forked_children}});
}
