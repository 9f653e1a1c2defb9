// Where packed sequences begin, on the host, where layouts are made.
#pragma once

#include "torch/edge_cuda.h"

namespace thrifty::attention::ops {

// cu_q or cu_k beside CUDA tensors: best on the CPU, then nothing waits. One on CUDA is copied,
// which waits for the stream, and so refused while a CUDA graph is captured.
inline edge::OptionalTensor host_cuts(const char* op, const char* name,
                                      const edge::OptionalTensor& cuts) {
  if (!cuts || !cuts->is_cuda()) return edge::dense(cuts);
  const edge::CudaScope scope(*cuts);
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(scope.stream, &capture);
  edge::check_launch({error, "of the stream's capture"});
  THRIFTY_CHECK(capture == cudaStreamCaptureStatusNone, op, ": ", name,
                ": expected a CPU tensor while a CUDA graph is captured, got one on ",
                edge::device_text(*cuts));
  const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return edge::dense(torch::stable::to(*cuts, cpu));
}

}  // namespace thrifty::attention::ops
