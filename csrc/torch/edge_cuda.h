// What every CUDA op file needs beside edge.h: the device of its tensors, torch's stream, and
// launch errors as RuntimeError with the kernel's name.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "core/cuda/status.h"
#include "torch/edge.h"

namespace thrifty::edge {

inline std::string device_text(const Tensor& tensor) {
  if (tensor.is_cuda()) return "cuda:" + std::to_string(tensor.get_device_index());
  return tensor.is_cpu() ? "cpu" : "another device";
}

// An op runs here when any of its tensors is on CUDA; all of them must be, on the device of the
// first, which decides.
inline void check_device(const std::string& op, const char* name, const Tensor& tensor,
                         const char* first_name, const Tensor& first) {
  THRIFTY_CHECK(first.is_cuda(), op, ": ", first_name,
                ": expected a CUDA tensor, as others are, got one on ", device_text(first));
  THRIFTY_CHECK(tensor.is_cuda() && tensor.get_device_index() == first.get_device_index(), op, ": ",
                name, ": expected a tensor on ", device_text(first), " like ", first_name,
                ", got one on ", device_text(tensor));
}

struct CudaTensors {
  static void check(const char* op, const char* name, const Tensor& tensor, const char* first_name,
                    const Tensor& first) {
    check_device(op, name, tensor, first_name, first);
  }
};

// Makes x's device the current one for a scope; `stream` is torch's current stream on it.
class CudaScope {
 public:
  explicit CudaScope(const Tensor& x) : guard_(x.get_device_index()) {
    void* current = nullptr;
    if (aoti_torch_get_current_cuda_stream(x.get_device_index(), &current) != 0) {
      throw std::runtime_error("thrifty: torch has no current CUDA stream");
    }
    stream = static_cast<cudaStream_t>(current);
  }

  cudaStream_t stream = nullptr;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};

// Scratch memory from torch's allocator: safe to use on the current stream and in a CUDA graph.
inline Tensor scratch(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

inline void check_launch(const cuda::LaunchStatus& status) {
  if (status.error == cudaSuccess) return;
  throw std::runtime_error(concat("thrifty: CUDA kernel ", status.kernel, ": ",
                                  cudaGetErrorName(status.error), " (",
                                  cudaGetErrorString(status.error), ")"));
}

// body(scratch, stream) -> LaunchStatus on the device of `like`, with so many bytes of scratch.
template <class Body>
void run_on(const Tensor& like, int64_t bytes, const Body& body) {
  const CudaScope scope(like);
  const Tensor memory = scratch(like, bytes);
  check_launch(body(data(memory), scope.stream));
}

}  // namespace thrifty::edge
