// Host form of core/cuda/memory.cuh: the alignment is checked, the access is an ordinary one that
// the sanitizers see.
#pragma once

#include "hostcuda/runtime.h"

namespace thrifty::cuda {

template <int N, class T>
THRIFTY_HOST_OP Vec<T, N> load_vec(const T* address, host::Site site = host::Site::current()) {
  host::require_aligned("load_vec", address, sizeof(Vec<T, N>), site);
  return *reinterpret_cast<const Vec<T, N>*>(address);
}
template <int N, class T>
THRIFTY_HOST_OP Vec<T, N> load_vec_readonly(const T* address,
                                            host::Site site = host::Site::current()) {
  host::require_aligned("load_vec_readonly", address, sizeof(Vec<T, N>), site);
  return *reinterpret_cast<const Vec<T, N>*>(address);
}
template <int N, class T>
THRIFTY_HOST_OP void store_vec(T* address, const Vec<T, N>& value,
                               host::Site site = host::Site::current()) {
  host::require_aligned("store_vec", address, sizeof(Vec<T, N>), site);
  *reinterpret_cast<Vec<T, N>*>(address) = value;
}

}  // namespace thrifty::cuda
