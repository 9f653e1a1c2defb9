// Runs a grid: blocks one after another, the threads of a block as fibers that the schedule picks.
#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>

#include "hostcuda/launch.h"
#include "hostcuda/runtime/bulk.h"
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"
#include "hostcuda/runtime/wgmma_tile.h"

namespace thrifty::cuda::host {

namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kPage = 4096;
// Frames under AddressSanitizer are several times larger.
#if defined(THRIFTY_HOSTCUDA_ASAN)
constexpr size_t kStackBytes = size_t(256) << 10;
#else
constexpr size_t kStackBytes = size_t(64) << 10;
#endif
constexpr int kLivelockRounds = 100000;

// Stacks of all threads, each above a page that may not be touched.
char* stack_of(int thread) {
  static char* const base = [] {
    const size_t stride = kStackBytes + kPage;
    void* memory = mmap(nullptr, stride * kMaxThreads, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    for (int i = 0; i < kMaxThreads; ++i)
      mprotect(static_cast<char*>(memory) + size_t(i) * stride, kPage, PROT_NONE);
    race::ignore_stacks(memory, stride * kMaxThreads);
    return static_cast<char*>(memory);
  }();
  return base + size_t(thread) * (kStackBytes + kPage) + kPage;
}

void on_exit(Thread& thread) {
  if (current().failed) return;
  if (!thread.copies.empty())
    record_failure(place(thread) + " exits with cp.async copies it never waited for");
  warp_on_exit(thread);
  barrier_on_exit(thread);
}

void thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  Launch& launch = current();
  try {
    race::kernel_code_starts();
    (*launch.thread_body)();
    race::kernel_code_ends();
    on_exit(thread);
  } catch (...) {  // an exception of the test's own
    race::kernel_code_ends();
    launch.foreign = std::current_exception();
    record_failure("exception");
  }
  thread.state = Thread::State::done;
  launch.ready.remove(thread.index);
  --launch.alive;
}

void resume(Thread& thread) {
  Launch& launch = current();
  launch.running = &thread;
  thread_idx = thread.id;
  ++stats().switches;
  if (!thread.fiber.unfinished())
    thread.fiber.start(stack_of(thread.index), kStackBytes, &thread_main, &thread);
  thread.fiber.resume();
  launch.running = nullptr;
}

void abandon_all() {
  Launch& launch = current();
  for (int i = 0; i < launch.threads; ++i)
    if (launch.thread(i).fiber.unfinished()) launch.thread(i).fiber.abandon();
}

void run_block(uint3 index, size_t shared_bytes, uint64_t number) {
  Launch& launch = current();
  block_idx = index;
  shared_begin_block(shared_bytes);
  for (auto& gatherings : launch.gatherings) gatherings.clear();
  for (Barrier& barrier : launch.barriers) barrier = Barrier();
  bulk_begin_block();
  wgmma_begin_block();
  for (int i = 0; i < launch.threads; ++i) {
    Thread& thread = launch.thread(i);
    const unsigned u = unsigned(i);
    thread.index = i;
    thread.id = {u % block_dim.x, u / block_dim.x % block_dim.y, u / (block_dim.x * block_dim.y)};
    thread.state = Thread::State::ready;
    thread.copies.clear();
    thread.copy_group = 0;
    thread.waits_for = nullptr;
  }
  launch.alive = launch.threads;
  stats().threads += uint64_t(launch.threads);
  launch.ready.begin_block(options().schedule, launch.threads, number);
  race::begin_block(launch.threads);
  for (int next = launch.ready.pick(); next >= 0 && !launch.failed; next = launch.ready.pick()) {
    resume(launch.thread(next));
    if (launch.ready.idle_rounds() > kLivelockRounds)
      record_failure("livelock: the threads left only poll memory that nobody changes");
  }
  if (launch.alive > 0 && !launch.failed) record_failure(describe_deadlock());
  if (!launch.failed) bulk_end_block();
  if (!launch.failed) wgmma_end_block();
  if (launch.failed) abandon_all();
}

std::vector<uint64_t> block_order(uint64_t blocks) {
  std::vector<uint64_t> order(blocks);
  std::iota(order.begin(), order.end(), uint64_t(0));
  const Schedule& schedule = options().schedule;
  if (schedule.kind == Schedule::Kind::reversed) std::reverse(order.begin(), order.end());
  if (schedule.kind == Schedule::Kind::random) {
    std::mt19937_64 generator(schedule.seed);
    std::shuffle(order.begin(), order.end(), generator);
  }
  return order;
}

void begin_launch(const void* kernel, dim3 grid, dim3 block, const std::function<void()>& body) {
  Launch& launch = current();
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads)
    throw Fault(kernel_name(kernel) + ": a block has 1 to 1024 threads, got " +
                std::to_string(threads));
  launch.kernel = kernel;
  launch.thread_body = &body;
  launch.failed = false;
  launch.failure.clear();
  launch.foreign = nullptr;
  launch.threads = int(threads);
  while (launch.pool.size() < threads) launch.pool.push_back(std::make_unique<Thread>());
  grid_dim = {grid.x, grid.y, grid.z};
  block_dim = {block.x, block.y, block.z};
}

}  // namespace

Launch the_launch;

Options& options() {
  static Options all;
  return all;
}

Stats& stats() {
  static Stats all;
  return all;
}

Thread& self(const char* op) {
  if (!current().running) throw Fault(std::string(op) + ": called outside a kernel");
  return *current().running;
}

void wait(const char* op, uint32_t mask, const Site& site) {
  Launch& launch = current();
  Thread& thread = *launch.running;
  thread.state = Thread::State::waiting;
  thread.op = op;
  thread.mask = mask;
  thread.site = site;
  launch.ready.remove(thread.index);
  thread.fiber.suspend();
}

void wake(Thread& thread) {
  thread.state = Thread::State::ready;
  current().ready.insert(thread.index);
}

void preempt() {
  const race::Quiet quiet;
  Launch& launch = current();
  Thread& thread = self("preempt");
  if (!launch.ready.preempts(thread.index)) return;
  thread.fiber.suspend();
}

void give_way() {
  const race::Quiet quiet;
  Launch& launch = current();
  Thread& thread = self("give_way");
  launch.ready.defer(thread.index);
  thread.fiber.suspend();
}

void run_grid(const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
              const std::function<void()>& thread_body) {
  static std::mutex one_at_a_time;
  static const bool built_ins_ignored = [] {
    race::ignore(&thread_idx, sizeof(thread_idx));
    race::ignore(&block_idx, sizeof(block_idx));
    race::ignore(&block_dim, sizeof(block_dim));
    race::ignore(&grid_dim, sizeof(grid_dim));
    return true;
  }();
  (void)built_ins_ignored;
  Launch& launch = current();
  if (launch.running) throw Fault("launch: called inside a kernel");
  const std::lock_guard lock(one_at_a_time);
  begin_launch(kernel, grid, block, thread_body);
  race::begin_launch();
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (const uint64_t number : block_order(blocks)) {
    const uint3 index{unsigned(number % grid.x), unsigned(number / grid.x % grid.y),
                      unsigned(number / (uint64_t(grid.x) * grid.y))};
    run_block(index, shared_bytes, number);
    if (launch.failed) break;
  }
  if (launch.foreign) std::rethrow_exception(launch.foreign);
  if (launch.failed) throw Fault(kernel_name(kernel) + ": " + launch.failure);
}

}  // namespace thrifty::cuda::host
