// "block (0,0,0) thread (5,0,0): reads 4 bytes of tile + 64 at gemm.cu:41, a race: thread (37,0,0)
// wrote it at gemm.cu:38 and nothing orders the two"
#include "hostcuda/runtime/race_report.h"

#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host::race {

namespace {

const char* verb_of(Kind kind) {
  switch (kind) {
    case Kind::read: return "reads";
    case Kind::write: return "writes";
    case Kind::atomic_update: return "updates";
    case Kind::atomic_load: return "loads";
  }
  return "";
}

std::string agent_name(const Clocks& clocks, int agent, uint32_t block) {
  const int unit = agent - clocks.threads();
  if (unit >= kWarpAgents) return "a bulk copy";
  if (unit >= 0) return "wgmma of warp " + std::to_string(unit);
  const unsigned u = unsigned(agent);
  const std::string name = "thread (" + std::to_string(u % block_dim.x) + "," +
                           std::to_string(u / block_dim.x % block_dim.y) + "," +
                           std::to_string(u / (block_dim.x * block_dim.y)) + ")";
  return block == clocks.block() ? name : name + " of another block";
}

std::string memory_name(uintptr_t address) {
  const uintptr_t offset = address - reinterpret_cast<uintptr_t>(current().arena);
  if (offset >= kArenaBytes) return "global memory";
  for (const SharedSlot& slot : current().slots)
    if (offset >= slot.offset && offset < slot.offset + slot.bytes)
      return std::string(slot.name) + " + " + std::to_string(offset - slot.offset);
  return "shared memory";
}

std::string at_line(const void* code) {
  const std::string line = code_line(code);
  return line.empty() ? "" : " at " + line;
}

}  // namespace

void report(const Clocks& clocks, const Access& access, const std::string& what) {
  const std::string who =
      access.agent < clocks.threads()
          ? place(current().thread(access.agent))
          : block_place() + " " + agent_name(clocks, access.agent, clocks.block());
  stop(who + ": " + verb_of(access.kind) + " " + std::to_string(access.bytes) + " bytes of " +
       memory_name(access.address) + at_line(access.code) + ", " + what);
}

void report_race(const Clocks& clocks, const Access& access, int other, uint32_t block,
                 const char* verb, const void* code) {
  report(clocks, access,
         "a race: " + agent_name(clocks, other, block) + " " + verb + " it" + at_line(code) +
             " and nothing orders the two");
}

void report_in_flight(const Clocks& clocks, const Access& access, const void* code) {
  report(clocks, access,
         "while an asynchronous copy issued" + at_line(code) + " has not been waited for");
}

void report_unfenced(const Clocks& clocks, const Access& access, int writer, const void* code) {
  report(clocks, access,
         "which " + agent_name(clocks, writer, clocks.block()) + " wrote" + at_line(code) +
             " without a fence_async_shared after it");
}

}  // namespace thrifty::cuda::host::race
