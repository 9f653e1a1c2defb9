// Words for what the race checker finds; each ends the launch.
#pragma once

#include <string>

#include "hostcuda/runtime/race_check.h"
#include "hostcuda/runtime/race_clocks.h"

namespace thrifty::cuda::host::race {

[[noreturn]] void report(const Clocks& clocks, const Access& access, const std::string& what);
[[noreturn]] void report_race(const Clocks& clocks, const Access& access, int other, uint32_t block,
                              const char* verb, const void* code);
[[noreturn]] void report_in_flight(const Clocks& clocks, const Access& access, const void* code);
[[noreturn]] void report_unfenced(const Clocks& clocks, const Access& access, int writer,
                                  const void* code);

}  // namespace thrifty::cuda::host::race
