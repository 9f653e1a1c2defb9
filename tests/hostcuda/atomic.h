// Host form of core/cuda/atomic.cuh: another thread may run before each, none during it.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

namespace host {

template <class T, class Update>
THRIFTY_HOST_OP T atomic_update(T* address, const Site& site, Update&& update) {
  require_access("atomic", address, sizeof(T), site);
  preempt();
  note_atomic(address, sizeof(T), true);
  T old, changed;
  raw_copy(&old, address, sizeof(T));
  changed = update(old);
  raw_copy(address, &changed, sizeof(T));
  return old;
}

}  // namespace host

template <class T>
THRIFTY_HOST_OP T atomic_add(T* address, T value, host::Site site = host::Site::current()) {
  return host::atomic_update(address, site, [&](T old) { return T(old + value); });
}
template <class T>
THRIFTY_HOST_OP T atomic_max(T* address, T value, host::Site site = host::Site::current()) {
  return host::atomic_update(address, site, [&](T old) { return old < value ? value : old; });
}
template <class T>
THRIFTY_HOST_OP T atomic_min(T* address, T value, host::Site site = host::Site::current()) {
  return host::atomic_update(address, site, [&](T old) { return value < old ? value : old; });
}
template <class T>
THRIFTY_HOST_OP T atomic_or(T* address, T value, host::Site site = host::Site::current()) {
  return host::atomic_update(address, site, [&](T old) { return T(old | value); });
}
template <class T>
THRIFTY_HOST_OP T atomic_exchange(T* address, T value, host::Site site = host::Site::current()) {
  return host::atomic_update(address, site, [&](T) { return value; });
}
template <class T>
THRIFTY_HOST_OP T atomic_cas(T* address, T expected, T value,
                             host::Site site = host::Site::current()) {
  const T old = host::atomic_update(
      address, site, [&](T current) { return current == expected ? value : current; });
  if (old != expected) host::give_way();  // a caller that retries must not keep the winner waiting
  return old;
}
template <class T>
THRIFTY_HOST_OP T atomic_load(const T* address, host::Site site = host::Site::current()) {
  host::require_access("atomic", address, sizeof(T), site);
  host::give_way();
  host::note_atomic(address, sizeof(T), false);
  T value;
  host::raw_copy(&value, address, sizeof(T));
  return value;
}

inline void threadfence() { host::note_fence(); }
inline void threadfence_block() { host::note_fence(); }

}  // namespace thrifty::cuda
