// The test frame on a device: the same tests against the hardware, each body once.
//
// What the host implementation computes and what the hardware computes are both compared with the
// same plain loops, so agreement of the two follows.
#include <string>

#include "hostcuda/harness.h"

namespace thrifty::cuda::testing {

const char* missing_device() {
  int count = 0;
  static std::string reason;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return nullptr;
  reason = std::string("no CUDA device: ") + cudaGetErrorString(error);
  return reason.c_str();
}

void needs_sm90() {
  cudaDeviceProp properties{};
  expect_ok(cudaGetDeviceProperties(&properties, 0));
  if (properties.major != 9) throw Skipped("skip");
}

void after_test() {}

void* allocate_global(size_t bytes) {
  void* memory = nullptr;
  expect_ok(cudaMalloc(&memory, bytes > 0 ? bytes : 1));
  expect_ok(cudaMemset(memory, 0xff, bytes));  // NaN in every floating type
  return memory;
}
void free_global(void* memory) { cudaFree(memory); }
void copy_to_global(void* to, const void* from, size_t bytes) {
  if (bytes > 0) expect_ok(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice));
}
void copy_from_global(void* to, const void* from, size_t bytes) {
  if (bytes > 0) expect_ok(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost));
}

void for_each_schedule(const std::function<Bytes()>& body) {
  body();
  expect_ok(cudaDeviceSynchronize());
}
void for_few_schedules(const std::function<Bytes()>& body) { for_each_schedule(body); }
void for_each_schedule_inexact(const std::function<void()>& body) {
  body();
  expect_ok(cudaDeviceSynchronize());
}

}  // namespace thrifty::cuda::testing
