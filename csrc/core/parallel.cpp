// The pool behind `thrifty.numpy` and the C++ tests: sleeping workers, one job at a time, ranges
// cut evenly.
//
// A job that finds the pool busy (a second caller, or a nested call) runs in its own thread instead
// of waiting, so neither can deadlock. Workers are joined when the number of threads changes and at
// exit; a forked child starts without workers and makes its own.
#include "core/parallel.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <thread>
#include <vector>

namespace thrifty {
namespace {

class Pool {
 public:
  explicit Pool(int threads) : threads_(threads) {
    for (int part = 1; part < threads; ++part) workers_.emplace_back([this, part] { work(part); });
  }

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
  }

  int threads() const { return threads_; }

  void run(int64_t begin, int64_t end, RangeFn fn, void* context) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      begin_ = begin, end_ = end, fn_ = fn, context_ = context;
      pending_ = threads_ - 1;
      ++job_;
    }
    wake_.notify_all();
    run_part(0);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return pending_ == 0; });
  }

 private:
  void run_part(int part) {
    const int64_t n = end_ - begin_;
    const int64_t first = begin_ + n * part / threads_, last = begin_ + n * (part + 1) / threads_;
    if (first < last) fn_(first, last, context_);
  }

  void work(int part) {
    for (int64_t seen = 0;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || job_ != seen; });
        if (stop_) return;
        seen = job_;
      }
      run_part(part);
      const std::lock_guard<std::mutex> lock(mutex_);
      if (--pending_ == 0) done_.notify_one();
    }
  }

  const int threads_;
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  int64_t begin_ = 0, end_ = 0, job_ = 0;
  RangeFn fn_ = nullptr;
  void* context_ = nullptr;
  int pending_ = 0;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

struct State {
  std::atomic<bool> busy = false;
  std::atomic<int> threads = std::max(1u, std::thread::hardware_concurrency());
  std::unique_ptr<Pool> pool;
  pid_t owner = 0;

  // After fork the parent's workers do not exist: to join them would wait for ever.
  void forget_parents_pool() {
    if (owner != getpid()) (void)pool.release();
  }
  ~State() { forget_parents_pool(); }
};

State& state() {
  static State state;
  return state;
}

Pool& ready_pool(State& s, int threads) {
  s.forget_parents_pool();
  if (!s.pool || s.pool->threads() != threads) {
    s.pool.reset();
    s.pool = std::make_unique<Pool>(threads);
    s.owner = getpid();
  }
  return *s.pool;
}

}  // namespace

void pool(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  if (begin >= end) return;
  State& s = state();
  const int threads = s.threads;
  if (threads == 1 || end - begin == 1 || s.busy.exchange(true, std::memory_order_acquire)) {
    return fn(begin, end, context);
  }
  ready_pool(s, threads).run(begin, end, fn, context);
  s.busy.store(false, std::memory_order_release);
}

void set_num_threads(int threads) { state().threads = std::max(1, threads); }
int get_num_threads() { return state().threads; }

}  // namespace thrifty
