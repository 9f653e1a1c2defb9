// How core code runs on several threads: the caller hands in a ParallelFor, the core never owns a
// thread pool.
//
// The torch edge passes torch's own pool, the NumPy face and the C++ tests a small pool of this
// library, or `serial`. A ParallelFor may cut [begin, end) wherever it likes: kernels give each
// index its own output, so results never depend on the number of threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

namespace thrifty {

using RangeFn = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, RangeFn fn, void* context);

inline void serial(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  if (begin < end) fn(begin, end, context);
}

void pool(int64_t begin, int64_t end, int64_t grain, RangeFn fn, void* context);
void set_num_threads(int threads);  // of `pool`; default: what the machine has
int get_num_threads();

// Calls body(begin, end) for ranges that cover [0, n); the first exception thrown is rethrown here
// once all are done.
template <class Body>
void for_ranges(ParallelFor parallel, int64_t n, const Body& body) {
  struct Context {
    const Body& body;
    std::mutex mutex;
    std::exception_ptr error;
  } context{body, {}, nullptr};
  const auto run = [](int64_t begin, int64_t end, void* opaque) {
    auto& self = *static_cast<Context*>(opaque);
    try {
      self.body(begin, end);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(self.mutex);
      if (!self.error) self.error = std::current_exception();
    }
  };
  parallel(0, n, 1, run, &context);
  if (context.error) std::rethrow_exception(context.error);
}

// The same, one index at a time.
template <class Body>
void for_each(ParallelFor parallel, int64_t n, const Body& body) {
  for_ranges(parallel, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

// For indices of unequal cost: whoever is free takes the next one. `make()` makes what a thread
// works with; body(worker, i).
template <class Make, class Body>
void for_turns(ParallelFor parallel, int64_t n, const Make& make, const Body& body) {
  std::atomic<int64_t> next{0};
  for_ranges(parallel, n, [&](int64_t, int64_t) {
    int64_t i = next++;
    if (i >= n) return;
    auto worker = make();
    for (; i < n; i = next++) body(worker, i);
  });
}

}  // namespace thrifty
