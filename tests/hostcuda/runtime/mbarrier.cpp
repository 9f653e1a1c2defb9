// mbarriers: phases of arrivals and expected bytes.
#include "hostcuda/runtime/bulk.h"

namespace thrifty::cuda::host {

namespace {

const char* const kWait = "mbarrier wait";

void complete_if_due(MbarrierState& state, const Mbarrier* barrier) {
  if (state.pending > 0) return;
  if (state.bytes < 0)
    stop(place(self(kWait)) + ": more bytes came than were expected, " + mbarrier_text(barrier));
  if (state.bytes > 0) return;
  for (const BulkCopy& copy : bulk().in_flight)
    if (copy.barrier == barrier)
      stop(place(self(kWait)) + ": an mbarrier's phase ends while a bulk copy of " +
           std::to_string(copy.map.box_bytes()) + " bytes is in flight that nobody expects");
  ++state.phase;
  state.pending = state.count;
  race::merge(state.done, state.arriving);
  mbarrier_wake(state);
}

}  // namespace

Bulk& bulk() {
  static Bulk all;
  return all;
}

void bulk_begin_block() {
  bulk().mbarriers.clear();
  bulk().in_flight.clear();
}

void bulk_end_block() {
  for (const BulkCopy& copy : bulk().in_flight)
    record_failure(block_place() + " ends with a bulk copy of " +
                   std::to_string(copy.map.box_bytes()) + " bytes that nobody waited for");
}

std::string mbarrier_text(const void* barrier) {
  const auto found = bulk().mbarriers.find(barrier);
  if (found == bulk().mbarriers.end()) return "unknown mbarrier";
  const MbarrierState& state = found->second;
  return "mbarrier " + std::to_string(state.number) + " in phase " + std::to_string(state.phase) +
         " lacks " + std::to_string(state.pending) + " arrivals and " +
         std::to_string(state.bytes) + " bytes";
}

MbarrierState& mbarrier_at(const char* op, const Mbarrier* barrier, const Site& site,
                           const void* code) {
  require_shared(op, barrier, sizeof(Mbarrier), sizeof(Mbarrier), site);
  const auto found = bulk().mbarriers.find(barrier);
  if (found == bulk().mbarriers.end())
    fail(site, std::string(op) + ": the mbarrier has not been initialised");
  race::read(barrier, sizeof(Mbarrier), self(op).index, code);
  return found->second;
}

void mbarrier_wake(MbarrierState& state) {
  for (const int waiting : state.waiting) wake(current().thread(waiting));
  state.waiting.clear();
}

void mbarrier_init(uint64_t* barrier, int arrivals, const Site& site) {
  const race::Quiet quiet;
  require_shared("mbarrier init", barrier, sizeof(Mbarrier), sizeof(Mbarrier), site);
  if (arrivals < 1 || arrivals > 1 << 20)
    fail(site, "mbarrier init: the number of arrivals is not in 1..2^20");
  const auto [at, fresh] = bulk().mbarriers.try_emplace(barrier);
  if (!fresh) fail(site, "mbarrier init: the mbarrier is in use");
  at->second.number = int(bulk().mbarriers.size()) - 1;
  at->second.count = at->second.pending = uint32_t(arrivals);
  race::write(barrier, sizeof(Mbarrier), self("mbarrier init").index, __builtin_return_address(0));
}

void mbarrier_arrive(uint64_t* barrier, int expected_bytes, const Site& site) {
  const race::Quiet quiet;
  const char* const op = expected_bytes > 0 ? "mbarrier arrive_expect" : "mbarrier arrive";
  MbarrierState& state = mbarrier_at(op, barrier, site, __builtin_return_address(0));
  if (state.pending == 0)
    fail(site, std::string(op) + ": more arrivals than the " + std::to_string(state.count) +
                   " of the phase");
  race::tell(self(op).index, state.arriving);
  state.bytes += expected_bytes;
  --state.pending;
  complete_if_due(state, barrier);
  preempt();
}

void mbarrier_wait(uint64_t* barrier, int parity, const Site& site) {
  const race::Quiet quiet;
  Thread& thread = self(kWait);
  MbarrierState& state = mbarrier_at(kWait, barrier, site, __builtin_return_address(0));
  if (parity != 0 && parity != 1) fail(site, "mbarrier wait: the parity is not 0 or 1");
  while ((state.phase & 1) == uint32_t(parity)) {
    if (bulk_land_one(barrier)) {
      complete_if_due(state, barrier);
      continue;
    }
    state.waiting.push_back(thread.index);
    thread.waits_for = barrier;
    wait(kWait, 0, site);
    thread.waits_for = nullptr;
  }
  race::learn(thread.index, state.done);
  preempt();
}

}  // namespace thrifty::cuda::host
