// The child reports through a pipe that also takes its stderr, where sanitizers write.
#include "hostcuda/planted.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace thrifty::cuda::testing {

namespace {

constexpr int kClean = 0, kCaught = 7;

[[noreturn]] void run_child(int report_to, const std::function<void()>& body) {
  dup2(report_to, STDERR_FILENO);
  try {
    body();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    std::fflush(stderr);
    _exit(kCaught);
  }
  _exit(kClean);
}

std::string read_all(int from) {
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = read(from, buffer, sizeof(buffer))) > 0;)
    text.append(buffer, size_t(got));
  return text;
}

}  // namespace

void expect_caught(const Report& report, const std::function<void()>& body) {
#if defined(THRIFTY_HOSTCUDA_RACE)
  const char* expected = report.race;
#else
  const char* expected = report.asan;
#endif
  if (!expected) return;
  int ends[2];
  expect(pipe(ends) == 0, "pipe failed");
  std::fflush(stdout);
  const pid_t child = fork();
  expect(child >= 0, "fork failed");
  if (child == 0) run_child(ends[1], body);
  close(ends[1]);
  const std::string text = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  expect(status != 0, "the planted bug was not caught");
  expect(text.find(expected) != std::string::npos,
         "expected a report with \"" + std::string(expected) + "\", got: " + text.substr(0, 1500));
  if (std::getenv("THRIFTY_SHOW_REPORTS")) std::printf("     %s\n", text.substr(0, 400).c_str());
}

}  // namespace thrifty::cuda::testing
