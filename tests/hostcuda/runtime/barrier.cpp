// syncthreads (barrier 0) and the named barriers 1..15.
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

namespace {

const char* const kSyncthreads = "syncthreads";
const char* const kNamedBarrier = "named barrier";

int result_of(const Barrier& barrier, Reduction reduction) {
  switch (reduction) {
    case Reduction::none: return 0;
    case Reduction::logical_and: return barrier.result_every;
    case Reduction::logical_or: return barrier.result_any;
    case Reduction::count: return barrier.result_count;
  }
  return 0;
}

void open(Barrier& barrier) {
  Launch& launch = current();
  barrier.result_any = barrier.any;
  barrier.result_every = barrier.every;
  barrier.result_count = barrier.count;
  barrier.any = false;
  barrier.every = true;
  barrier.count = 0;
  barrier.arrived = 0;
  for (const int waiting : barrier.waiting) wake(launch.thread(waiting));
  barrier.waiting.clear();
}

}  // namespace

int block_barrier(Reduction reduction, bool predicate, const Site& site) {
  const race::Quiet quiet;
  Launch& launch = current();
  Thread& thread = self(kSyncthreads);
  Barrier& barrier = launch.barriers[0];
  ++stats().barriers;
  if (launch.alive < launch.threads)
    fail(site, "syncthreads: not reached by a thread of the block that has exited");
  if (barrier.arrived == 0) {
    barrier.site = site;
  } else if (barrier.site.line() != site.line()) {
    fail(site, "syncthreads: another thread waits in the one at " + source_line(barrier.site));
  }
  barrier.any |= predicate;
  barrier.every &= predicate;
  barrier.count += predicate;
  if (++barrier.arrived < launch.threads) {
    barrier.waiting.push_back(thread.index);
    wait(kSyncthreads, 0, site);
    return result_of(barrier, reduction);
  }
  race::join_block();
  open(barrier);
  const int result = result_of(barrier, reduction);
  preempt();
  return result;
}

void named_barrier(int id, int threads, bool waits, const Site& site) {
  const race::Quiet quiet;
  Launch& launch = current();
  Thread& thread = self(kNamedBarrier);
  if (id < 1 || id > 15) fail(site, "named barrier: the id is not in 1..15");
  if (threads % 32 != 0 || threads < 32 || threads > launch.threads)
    fail(site, "named barrier: " + std::to_string(threads) +
                   " threads is not a positive multiple of 32 that the block has");
  Barrier& barrier = launch.barriers[id];
  ++stats().barriers;
  if (barrier.arrived == 0) {
    barrier.expected = threads;
    barrier.site = site;
  } else if (barrier.expected != threads) {
    fail(site, "named barrier " + std::to_string(id) + ": " + std::to_string(threads) +
                   " threads here, " + std::to_string(barrier.expected) + " at " +
                   source_line(barrier.site));
  }
  race::tell(thread.index, barrier.arriving);
  if (++barrier.arrived < threads) {
    if (!waits) return preempt();
    barrier.waiting.push_back(thread.index);
    wait(kNamedBarrier, 0, site);
    return;
  }
  if (waits) barrier.waiting.push_back(thread.index);
  for (const int one : barrier.waiting) race::learn(one, barrier.arriving);
  barrier.arriving = {};
  open(barrier);
  preempt();
}

void barrier_on_exit(Thread& thread) {
  const Barrier& barrier = current().barriers[0];
  if (barrier.arrived > 0)
    record_failure(place(thread) + " exits while " + std::to_string(barrier.arrived) +
                   " threads wait in syncthreads at " + source_line(barrier.site));
}

}  // namespace thrifty::cuda::host
