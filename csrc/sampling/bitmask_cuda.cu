// apply_token_bitmask_ on CUDA: -inf is written where a bit is clear, and nothing else is touched;
// the logits are never read. A thread takes 8 tokens, one byte of the mask.
#include "core/cuda/launch.h"
#include "core/row_reader.cuh"
#include "sampling/sampling_cuda.h"

namespace thrifty::sampling::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kThreads = 256, kTokens = 8;

template <class T>
__global__ void __launch_bounds__(kThreads) bitmask_kernel(ApplyBitmask op, unsigned pieces) {
  const int64_t pair = blockIdx.x / pieces;
  const int64_t first = (int64_t(blockIdx.x % pieces) * kThreads + threadIdx.x) * kTokens;
  const int64_t row = op.rows ? op.rows[pair] : pair, which = op.masks ? op.masks[pair] : pair;
  const bool inside = row >= 0 && row < op.all_rows && which >= 0 && which < op.all_masks;
  if (!inside || first >= op.vocab) return;
  T* const logits = static_cast<T*>(op.logits) + row * op.stride + first;
  uint32_t allowed = 0;
  if (first < op.covered) {
    allowed = load_readonly(op.mask + which * op.mask_words + first / 32) >> (first % 32) & 0xff;
    const int64_t covered = op.covered - first;
    if (covered < kTokens) allowed &= (1u << covered) - 1;
  }
  if (allowed == 0xff) return;
  const T none = from_float<T>(-INFINITY);
  const int64_t left = op.vocab - first;
  if (allowed == 0 && left >= kTokens && reinterpret_cast<uintptr_t>(logits) % 16 == 0) {
    constexpr int kPiece = 16 / int(sizeof(T));
    Vec<T, kPiece> nothing;
#pragma unroll
    for (int j = 0; j < kPiece; ++j) nothing[j] = none;
#pragma unroll
    for (int j = 0; j < kTokens; j += kPiece) store_vec(logits + j, nothing);
  } else {
#pragma unroll
    for (int j = 0; j < kTokens; ++j) {
      if (j < left && !(allowed >> j & 1)) logits[j] = none;
    }
  }
}

}  // namespace

Status apply_token_bitmask(const ApplyBitmask& op, cudaStream_t stream) {
  const int64_t pieces = (op.vocab + kThreads * kTokens - 1) / (kThreads * kTokens);
  if (op.count * pieces > INT32_MAX) return {cudaErrorInvalidConfiguration, "apply_token_bitmask_"};
  const dim3 grid(unsigned(op.count * pieces));
  const cudaError_t error = with_logits_type(op.dtype, [&]<class T>(T) {
    return launch(bitmask_kernel<T>, grid, kThreads, 0, stream, op, unsigned(pieces));
  });
  return {error, "apply_token_bitmask_"};
}

}  // namespace thrifty::sampling::cuda
