// Warp operations: lanes gather under (operation, mask) until all that the mask names have come.
#include <algorithm>
#include <bit>
#include <cstring>

#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

namespace {

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof(text), "%08x", mask);
  return text;
}

// What is wrong at once with `thread` starting an operation under this mask.
void check_mask(const WarpOp& op, uint32_t mask, const Thread& thread, const Site& site) {
  Launch& launch = current();
  const std::string name = op.name;
  if (!(mask >> thread.lane() & 1)) fail(site, name + ": the mask does not name the calling lane");
  for (uint32_t left = mask; left; left &= left - 1) {
    const int lane = std::countr_zero(left);
    const int index = thread.warp() * 32 + lane;
    if (index >= launch.threads)
      fail(site, name + ": the mask " + hex(mask) + " names lane " + std::to_string(lane) +
                     ", which the block does not have");
    if (launch.thread(index).state == Thread::State::done)
      fail(site, name + ": the mask " + hex(mask) + " names lane " + std::to_string(lane) +
                     ", which has exited");
  }
}

// Another gathering that waits for the caller can never complete once the caller waits here.
void check_conflict(const WarpOp& op, uint32_t mask, const Thread& thread, const Site& site) {
  for (const Gathering& other : current().gatherings[thread.warp()])
    if ((other.mask >> thread.lane() & 1) && (other.arrived & mask))
      fail(site, std::string(op.name) + " with mask " + hex(mask) + " while lane " +
                     std::to_string(std::countr_zero(other.arrived & mask)) +
                     " waits for this lane in " + other.op + " with mask " + hex(other.mask) +
                     " at " + source_line(other.site));
}

// Names are literals: mostly one address, but every file of the kernel may have its own.
bool same_text(const char* a, const char* b) { return a == b || std::strcmp(a, b) == 0; }

bool same_place(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         same_text(a.file_name(), b.file_name());
}

}  // namespace

LaneSlots warp_arrive(const WarpOp& op, uint32_t mask, void* slot, const Site& site) {
  const race::Quiet quiet;
  Launch& launch = current();
  Thread& thread = self(op.name);
  ++stats().warp_ops;
  auto& gatherings = launch.gatherings[thread.warp()];
  auto at = std::find_if(gatherings.begin(), gatherings.end(), [&](const Gathering& other) {
    return other.mask == mask && same_text(other.op, op.name) &&
           !(other.arrived >> thread.lane() & 1);
  });
  if (at == gatherings.end()) {
    check_mask(op, mask, thread, site);
    check_conflict(op, mask, thread, site);
    gatherings.push_back({op.name, mask, 0, op.aligned, op.orders_memory, site, {}});
    at = gatherings.end() - 1;
  } else if (!(mask >> thread.lane() & 1)) {
    fail(site, std::string(op.name) + ": the mask does not name the calling lane");
  } else if (op.aligned && !same_place(at->site, site)) {
    fail(site, std::string(op.name) + ": the warp is not converged, another lane is at " +
                   source_line(at->site));
  }
  at->arrived |= 1u << thread.lane();
  at->slots[thread.lane()] = slot;
  if (at->arrived != mask) {
    wait(op.name, mask, site);
    return nullptr;
  }
  // Complete: move it to the end, where warp_release finds it.
  std::rotate(at, at + 1, gatherings.end());
  if (op.orders_memory) race::join_lanes(thread.warp(), mask);
  return gatherings.back().slots;
}

void warp_release() {
  const race::Quiet quiet;
  Launch& launch = current();
  const Thread& thread = *launch.running;
  auto& gatherings = launch.gatherings[thread.warp()];
  const uint32_t others = gatherings.back().mask & ~(1u << thread.lane());
  gatherings.pop_back();
  for (uint32_t left = others; left; left &= left - 1)
    wake(launch.thread(thread.warp() * 32 + std::countr_zero(left)));
  preempt();
}

void warp_on_exit(Thread& thread) {
  for (const Gathering& open : current().gatherings[thread.warp()])
    if (open.mask >> thread.lane() & 1)
      record_failure(place(thread) + " exits while lane " +
                     std::to_string(std::countr_zero(open.arrived)) + " waits for it in " +
                     open.op + " with mask " + hex(open.mask) + " at " + source_line(open.site));
}

}  // namespace thrifty::cuda::host
