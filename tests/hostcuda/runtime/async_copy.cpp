// cp.async: poison at issue, the bytes arrive in the wait that covers their group.
#include <cstring>

#include "hostcuda/runtime/race.h"
#include "hostcuda/runtime/state.h"

namespace thrifty::cuda::host {

void async_copy(void* destination, const void* source, int bytes, bool valid, const Site& site) {
  const race::Quiet quiet;
  Thread& thread = self("cp.async");
  require_shared("cp.async", destination, size_t(bytes), size_t(bytes), site);
  if (valid) require_access("cp.async", source, size_t(bytes), site);
  const void* code = __builtin_return_address(0);
  race::async_begin(destination, size_t(bytes), thread.index, code);
  if (valid) race::read(source, size_t(bytes), thread.index, code);
  fill_poison(destination, size_t(bytes));
  thread.copies.push_back({destination, source, bytes, valid, thread.copy_group});
}

void async_commit() { ++self("cp.async commit").copy_group; }

void async_wait(int pending, const Site&) {
  const race::Quiet quiet;
  Thread& thread = self("cp.async wait");
  const int covered = pending == 0 ? thread.copy_group + 1 : thread.copy_group - pending;
  size_t done = 0;
  for (; done < thread.copies.size() && thread.copies[done].group < covered; ++done) {
    const PendingCopy& copy = thread.copies[done];
    race::async_end(copy.to, size_t(copy.bytes), thread.index);
    if (copy.valid) {
      std::memcpy(copy.to, copy.from, size_t(copy.bytes));
    } else {
      std::memset(copy.to, 0, size_t(copy.bytes));
    }
  }
  thread.copies.erase(thread.copies.begin(), thread.copies.begin() + long(done));
  preempt();
}

}  // namespace thrifty::cuda::host
