// First of the two kernels of every op on logits: what each block of 1024 logits holds. One warp
// per block of a row, one read of the logits, nothing but registers; the second kernel, one warp or
// one block of threads per row, merges the blocks and draws.
#pragma once

#include <driver_types.h>

#include "core/logits.h"

namespace thrifty::cuda {

// One number per request, or one for all (stride 0); no pointer: `fallback`.
template <class T>
struct PerRequest {
  const T* data = nullptr;
  int64_t stride = 0;
  T fallback{};

  THRIFTY_ANY_SIDE T operator[](int64_t request) const {
    return data ? data[request * stride] : fallback;
  }
};

// Beyond this 1 / T means that the largest logit is taken.
constexpr float kGreedyInvTemperature = 1e30f;

// Rows of logits on the device and which of their tokens are kept: those that the mask allows, with
// a logit of at least `at_least`, and not among `without`. Row r belongs to request r / group.
struct RowsArgs {
  const void* logits = nullptr;  // [rows, vocab], rows of a request `stride` elements apart
  Dtype dtype = Dtype::kFloat32;
  int64_t rows = 0, vocab = 0, stride = 0;
  int64_t group = 1;
  PerRequest<float> inv_temperature{nullptr, 0, 1.0f};
  const float* temperature = nullptr;  // [requests], instead: 0 takes the largest logit
  const uint32_t* mask = nullptr;      // [masks, mask_words]; null: all tokens are allowed
  int64_t masks = 0, mask_words = 0;
  const int32_t* mask_rows = nullptr;  // [rows]: the row's mask, -1 for none; null: in order
  PerRequest<float> at_least{nullptr, 0, kNoLogit};  // by row, not by request
  const int32_t* without = nullptr;  // [rows, without_count]; ids outside the row name no token
  int64_t without_count = 0;

  int64_t request_stride = 0;  // with group > 1: elements from one request's rows to the next

  THRIFTY_ANY_SIDE int64_t blocks() const { return (vocab + kLogitsBlock - 1) / kLogitsBlock; }
  THRIFTY_ANY_SIDE int64_t begin(int64_t row) const {  // its first logit, in elements
    return group == 1 ? row * stride : row / group * request_stride + row % group * stride;
  }
};

// Of a block's finite kept logits: how many, sum and sum of squares of their distances from the
// largest, and the smallest (infinity where there is none).
struct BlockMoments {
  float count, sum, squares, min;
};

// Each [rows, blocks], or null where it is not wanted.
struct RowSumsOut {
  BlockMass* all = nullptr;   // every token
  BlockMass* kept = nullptr;  // tokens that are kept
  float* max = nullptr;       // the largest kept logit, -inf where there is none
  BlockMoments* moments = nullptr;
};

// `known_max`: null, or maxima of an earlier pass that kept at least as much; blocks below the
// bound are not read again, and only `kept` may be asked for.
cudaError_t launch_row_sums(const RowsArgs& rows, const float* known_max, const RowSumsOut& out,
                            cudaStream_t stream);

}  // namespace thrifty::cuda
