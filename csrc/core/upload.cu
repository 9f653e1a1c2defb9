#include "core/upload_cuda.h"

#include <algorithm>
#include <cstring>

#include "core/cuda/launch.h"

namespace thrifty::cuda {
namespace {

constexpr int kThreads = 128, kWords = 992;  // arguments take 4 KiB

struct Words {
  uint32_t word[kWords];
};

__global__ void __launch_bounds__(kThreads)
    upload_kernel(const Words words, uint32_t* to, int count) {
  for (int i = int(threadIdx.x); i < count; i += kThreads) to[i] = words.word[i];
}

}  // namespace

LaunchStatus upload(const void* host, int64_t bytes, void* device, cudaStream_t stream) {
  LaunchStatus status{cudaSuccess, "upload"};
  for (int64_t at = 0; at < bytes / 4 && status.ok(); at += kWords) {
    const int64_t count = std::min<int64_t>(kWords, bytes / 4 - at);
    Words words{};
    std::memcpy(words.word, static_cast<const uint32_t*>(host) + at, size_t(count) * 4);
    status.error = launch(upload_kernel, 1, kThreads, 0, stream, words,
                          static_cast<uint32_t*>(device) + at, int(count));
  }
  return status;
}

}  // namespace thrifty::cuda
