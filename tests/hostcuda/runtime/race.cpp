// Checks an access against the shadow of its bytes and keeps the shadow up to date.
#include "hostcuda/runtime/race.h"

#if defined(THRIFTY_HOSTCUDA_RACE)

#include <algorithm>
#include <bit>

#include "hostcuda/runtime/race_check.h"
#include "hostcuda/runtime/race_clocks.h"
#include "hostcuda/runtime/race_report.h"
#include "hostcuda/runtime/race_shadow.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host::race {

bool active = false;
Range stacks{0, 0};

namespace {

Clocks clocks;
Shadow shadow;
std::vector<Range> ignored;
Range arena{0, 0};
std::vector<uint8_t> declared;  // by byte of the arena

// Readers are kept by group: a warp, or the wgmma unit of a warp.
int warps() { return (clocks.threads() + 31) / 32; }
bool is_thread(int agent) { return agent < clocks.threads(); }
int group_of(int agent) {
  return is_thread(agent) ? agent / 32 : warps() + agent - clocks.threads();
}
uint32_t lane_bit(int agent) { return is_thread(agent) ? 1u << agent % 32 : 1u; }
int agent_of(int group, int lane) {
  return group < warps() ? group * 32 + lane : clocks.warp_agent(group - warps());
}

template <class Body>
bool every_reader(int group, uint32_t lanes, Body&& body) {
  for (uint32_t left = lanes; left; left &= left - 1)
    if (!body(agent_of(group, std::countr_zero(left)))) return false;
  return true;
}

void check_against_write(const Access& access, const Cell& cell, bool shared) {
  const uint32_t start = shared ? clocks.block_start() : clocks.launch_start();
  if (cell.write_clock <= start) {
    if (shared && access.kind != Kind::write) report(clocks, access, "which no thread has written");
    return;
  }
  const bool atomic = access.kind == Kind::atomic_update || access.kind == Kind::atomic_load;
  if (atomic && cell.write_was_atomic) return;
  if (!clocks.ordered(cell.writer, cell.write_clock, cell.write_block, access.agent))
    report_race(clocks, access, cell.writer, cell.write_block,
                cell.write_was_atomic ? "updated" : "wrote", cell.write_code);
}

void check_against_reads(const Access& access, const Cell& cell, const Readers* readers, int groups,
                         bool shared) {
  // Another block has read it in this launch, and no atomic told this block so.
  if (!shared && cell.read_block >= clocks.first_block() &&
      (cell.read_block != clocks.block() || cell.many_reading_blocks) &&
      !clocks.knows(cell.read_block) && !clocks.knows(cell.earlier_reading_block))
    report_race(clocks, access, cell.reader,
                cell.read_block != clocks.block() ? cell.read_block : cell.earlier_reading_block,
                "read", cell.read_code);
  for (int group = 0; group < groups; ++group) {
    const Readers& of = readers[group];
    if (of.clock <= clocks.block_start()) continue;
    every_reader(group, of.lanes, [&](int reader) {
      if (!clocks.ordered(reader, of.clock, clocks.block(), access.agent))
        report_race(clocks, access, reader, clocks.block(), "read", cell.read_code);
      return true;
    });
  }
}

void remember_read(const Access& access, Cell& cell, Readers& readers) {
  const uint32_t clock = clocks.now(access.agent), bit = lane_bit(access.agent);
  cell.read_code = access.code;
  cell.reader = uint16_t(access.agent);
  if (cell.read_block != clocks.block()) {
    cell.many_reading_blocks = cell.read_block >= clocks.first_block();
    cell.earlier_reading_block = cell.read_block;
    cell.read_block = clocks.block();
  }
  if (readers.clock == clock) {
    readers.lanes |= bit;
    return;
  }
  const bool all_known =
      readers.clock <= clocks.block_start() ||
      every_reader(group_of(access.agent), readers.lanes, [&](int reader) {
        return clocks.ordered(reader, readers.clock, clocks.block(), access.agent);
      });
  // Readers that do not know each other share the earlier clock, which may hide a race but never
  // invents one.
  if (all_known)
    readers = {clock, bit};
  else
    readers = {std::min(readers.clock, clock), readers.lanes | bit};
}

void remember_write(const Access& access, Cell& cell) {
  cell.write_clock = clocks.now(access.agent);
  cell.write_block = clocks.block();
  cell.writer = uint16_t(access.agent);
  cell.write_was_atomic = access.kind == Kind::atomic_update;
  cell.write_code = access.code;
}

void check_grain(const Access& access, Page& page, size_t grain, bool shared) {
  Cell& cell = page.cells[grain];
  const int groups = shared ? 2 * warps() : warps();
  if (cell.in_flight && cell.write_block == clocks.block())
    report_in_flight(clocks, access, cell.write_code);
  check_against_write(access, cell, shared);
  if (access.kind == Kind::atomic_load) return;
  if (access.kind == Kind::read) {
    page.allow_readers(groups);
    remember_read(access, cell, page.readers_of(grain)[group_of(access.agent)]);
    return;
  }
  if (const Readers* readers = page.readers_of(grain))
    check_against_reads(access, cell, readers, std::min(groups, page.groups), shared);
  remember_write(access, cell);
}

void check_declared(const Access& access) {
  const uintptr_t offset = access.address - arena.begin;
  if (access.address + access.bytes > arena.end || !declared[offset] ||
      !declared[offset + access.bytes - 1])
    report(clocks, access, "outside of what was launched or declared");
}

}  // namespace

void check(const Access& access) {
  const bool shared = arena.holds(access.address);
  if (shared) {
    check_declared(access);
  } else {
    for (const Range& range : ignored)
      if (range.holds(access.address)) return;
  }
  shadow.for_each_grain(access.address, access.bytes, [&](Page& page, size_t grain) {
    check_grain(access, page, grain, shared);
  });
}

void check_instrumented(const void* address, size_t bytes, Kind kind, const void* code) {
  active = false;  // the checker's own accesses
  const int agent = current().running->index;
  check({reinterpret_cast<uintptr_t>(address), bytes, kind, agent, code});
  active = true;
}

Quiet::Quiet() : before_(active) { active = false; }
Quiet::~Quiet() { active = before_; }

void ignore(const void* memory, size_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory);
  ignored.push_back({begin, begin + bytes});
}
void ignore_stacks(const void* memory, size_t bytes) {
  stacks.begin = reinterpret_cast<uintptr_t>(memory);
  stacks.end = stacks.begin + bytes;
}

void begin_launch() { clocks.begin_launch(); }
void begin_block(int threads) { clocks.begin_block(threads); }
void kernel_code_starts() { active = true; }
void kernel_code_ends() { active = false; }

void shared_arena(const void* memory, size_t bytes) {
  arena.begin = reinterpret_cast<uintptr_t>(memory);
  arena.end = arena.begin + bytes;
  declared.resize(bytes);
}
void shared_reset() { std::fill(declared.begin(), declared.end(), uint8_t(0)); }
void shared_declared(size_t offset, size_t bytes) {
  std::fill_n(declared.begin() + long(offset), bytes, uint8_t(1));
}

void join_lanes(int warp, uint32_t mask) { clocks.join_lanes(warp, mask); }
void join_block() { clocks.join_block(); }
int unit_of_warp(int warp) { return clocks.warp_agent(warp); }
int unit_of_mbarrier(int number) { return clocks.barrier_agent(number); }
void tell(int agent, Knowledge& knowledge) { clocks.release(agent, knowledge.row); }
void learn(int agent, const Knowledge& knowledge) { clocks.acquire(agent, knowledge.row); }
void merge(Knowledge& into, const Knowledge& from) { Clocks::take_max(into.row, from.row); }
void hand_over(int from_agent, int to_agent) {
  Knowledge told;
  tell(from_agent, told);
  learn(to_agent, told);
}

void read(const void* from, size_t bytes, int agent, const void* code) {
  check({reinterpret_cast<uintptr_t>(from), bytes, Kind::read, agent, code});
}
void write(const void* to, size_t bytes, int agent, const void* code) {
  check({reinterpret_cast<uintptr_t>(to), bytes, Kind::write, agent, code});
}
void async_read(const void* from, size_t bytes, int agent, const void* code) {
  const Access access{reinterpret_cast<uintptr_t>(from), bytes, Kind::read, agent, code};
  check(access);
  shadow.for_each_grain(access.address, bytes, [&](Page& page, size_t grain) {
    const Cell& cell = page.cells[grain];
    if (is_thread(cell.writer) && !clocks.fenced_for_async(cell.writer, cell.write_clock))
      report_unfenced(clocks, access, cell.writer, cell.write_code);
  });
}
void async_begin(const void* to, size_t bytes, int agent, const void* code) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(to);
  check({address, bytes, Kind::write, agent, code});
  shadow.for_each_grain(address, bytes,
                        [](Page& page, size_t grain) { page.cells[grain].in_flight = true; });
}
void async_end(const void* to, size_t bytes, int agent) {
  shadow.for_each_grain(reinterpret_cast<uintptr_t>(to), bytes, [&](Page& page, size_t grain) {
    Cell& cell = page.cells[grain];
    cell.in_flight = false;
    cell.write_clock = clocks.now(agent);
    cell.writer = uint16_t(agent);
  });
}

}  // namespace thrifty::cuda::host::race

namespace thrifty::cuda::host {

void note_atomic(const void* address, size_t bytes, bool writes) {
  const race::Quiet quiet;
  const int thread = current().running->index;
  const race::Kind kind = writes ? race::Kind::atomic_update : race::Kind::atomic_load;
  race::check(
      {reinterpret_cast<uintptr_t>(address), bytes, kind, thread, __builtin_return_address(0)});
  race::clocks.atomic(thread, reinterpret_cast<uintptr_t>(address), writes);
}
void note_async_fence() {
  const race::Quiet quiet;
  race::clocks.fence_for_async(current().running->index);
}
void note_fence() {
  const race::Quiet quiet;
  race::clocks.fence(current().running->index);
}

}  // namespace thrifty::cuda::host
#endif
