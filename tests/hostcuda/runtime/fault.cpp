// Messages: who failed where, and what every thread of a stuck block waits for.
//
// Kernels are named by their debug information through addr2line, which every compiler brings
// along; without it the message gives the address.
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "hostcuda/runtime/bulk.h"
#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

namespace {

std::string text_of(const uint3& v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

bool is_header_of_ours(const std::string& line) {
  return line.find("/hostcuda/") != std::string::npos && line.find(".h:") != std::string::npos;
}

// The two lines addr2line prints for an address: function and file:line.
std::pair<std::string, std::string> look_up(const void* address) {
  static std::map<const void*, std::pair<std::string, std::string>> known;
  const auto found = known.find(address);
  if (found != known.end()) return found->second;
  std::pair<std::string, std::string> lines;
  Dl_info info;
  if (dladdr(address, &info) && info.dli_fname) {
    char command[4096];
    const size_t offset =
        size_t(static_cast<const char*>(address) - static_cast<const char*>(info.dli_fbase));
    std::snprintf(command, sizeof(command), "addr2line -i -f -C -e '%s' %zx 2>/dev/null",
                  info.dli_fname, offset);
    if (FILE* pipe = popen(command, "r")) {
      char line[2048];
      do {
        if (std::fgets(line, sizeof(line), pipe)) lines.first = line;
        if (std::fgets(line, sizeof(line), pipe))
          lines.second = line;
        else
          break;
      } while (is_header_of_ours(lines.second));  // inlined there: the caller's line is wanted
      pclose(pipe);
    }
  }
  for (std::string* line : {&lines.first, &lines.second}) {
    while (!line->empty() && line->back() == '\n') line->pop_back();
    if (line->starts_with("??")) line->clear();
  }
  lines.second = base_name(lines.second.substr(0, lines.second.find(" (")));
  return known[address] = lines;
}

}  // namespace

std::string block_place() { return "block " + text_of(block_idx); }

std::string place(const Thread& thread) { return block_place() + " thread " + text_of(thread.id); }

std::string source_line(const Site& site) {
  return base_name(site.file_name()) + ":" + std::to_string(site.line());
}

std::string kernel_name(const void* function) {
  std::string name = look_up(function).first;
  if (name.empty()) {
    char text[32];
    std::snprintf(text, sizeof(text), "kernel at %p", function);
    return text;
  }
  // "void space::kernel<int>(float*)" -> "space::kernel<int>"
  const size_t arguments = name.rfind('(');
  if (arguments != std::string::npos) name.resize(arguments);
  if (name.starts_with("void ")) name.erase(0, 5);
  const std::string unnamed = "(anonymous namespace)::";
  for (size_t at; (at = name.find(unnamed)) != std::string::npos;) name.erase(at, unnamed.size());
  return name;
}

std::string code_line(const void* address) {
  if (!address) return "";
  return look_up(static_cast<const char*>(address) - 1).second;  // back into the call
}

void record_failure(const std::string& message) {
  Launch& launch = current();
  if (launch.failed) return;  // the first failure is the cause
  launch.failed = true;
  launch.failure = message;
}

void stop(const std::string& message) {
  record_failure(message);
  for (;;) current().running->fiber.suspend();
}

void fail(const Site& site, const std::string& what) {
  const race::Quiet quiet;
  stop(place(self("fail")) + ": " + what + " [" + source_line(site) + "]");
}

std::string describe_deadlock() {
  Launch& launch = current();
  std::map<std::string, std::vector<int>> waiting;
  for (int i = 0; i < launch.threads; ++i) {
    const Thread& thread = launch.thread(i);
    if (thread.state == Thread::State::done) {
      waiting["has exited"].push_back(i);
      continue;
    }
    std::string what = std::string("waits in ") + thread.op;
    char mask[32];
    std::snprintf(mask, sizeof(mask), " with mask %08x", thread.mask);
    if (thread.mask) what += mask;
    if (thread.waits_for) what += " (" + mbarrier_text(thread.waits_for) + ")";
    waiting[what + " at " + source_line(thread.site)].push_back(i);
  }
  std::string message = block_place() + ": deadlock:";
  for (const auto& [what, threads] : waiting)
    message += " [" + std::to_string(threads.size()) + " threads, " +
               std::to_string(threads.front()) + " to " + std::to_string(threads.back()) + ", " +
               what + "]";
  return message;
}

}  // namespace thrifty::cuda::host
