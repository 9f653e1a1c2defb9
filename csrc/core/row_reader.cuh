// One row of RowsArgs as a kernel reads it.
#pragma once

#include "core/row_block.cuh"
#include "core/row_sums.h"

namespace thrifty::cuda {

constexpr float kSmallest = 1.17549435e-38f;  // normal float
constexpr float kLog2E = 1.44269504f;         // of log2_scale

template <class T>
struct RowReader {
  RowView<T> view;
  bool greedy;  // the largest logit is taken; the view's temperature is 1
  const uint32_t* mask = nullptr;
  int64_t mask_words;
  float at_least;
  const int32_t* without;
  int64_t without_count;

  THRIFTY_DEVICE RowReader(const RowsArgs& args, int64_t row)
      : mask_words(args.mask_words),
        at_least(args.at_least[row]),
        without(args.without ? args.without + row * args.without_count : nullptr),
        without_count(args.without_count) {
    const int64_t request = row / args.group;
    const float inverse =
        args.temperature ? 1 / args.temperature[request] : args.inv_temperature[request];
    greedy = inverse > kGreedyInvTemperature;
    // 0, "all alike", becomes the smallest normal number, as on the CPU.
    view = {static_cast<const T*>(args.logits) + args.begin(row), args.vocab,
            (greedy                ? 1
             : inverse < kSmallest ? kSmallest
                                   : inverse) *
                kLog2E};
    const int64_t which = args.mask_rows ? args.mask_rows[row] : row;
    if (args.mask && which >= 0) {
      mask = args.mask + which * args.mask_words;
      // Indices lie on the device and cannot be checked before: a wrong one allows nothing.
      if (which >= args.masks) mask = args.mask, mask_words = 0;
    }
  }

  // The T that is meant, as the CPU's log_scale: l / T = l * log_scale.
  THRIFTY_DEVICE double log_scale() const { return double(view.scale) * kLog2; }

  // The kept tokens of a block.
  THRIFTY_DEVICE uint32_t keep(const BlockValues& values, int64_t block) const {
    uint32_t bits = allowed_bits(mask, mask_words, block) & at_least_bits(values, at_least);
    for (int64_t i = 0; without && i < without_count; ++i) bits &= ~token_bit(without[i], block);
    return bits;
  }
};

// Calls body(T()) with the storage type of `dtype`.
template <class Body>
auto with_logits_type(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::kBFloat16: return body(bf16());
    case Dtype::kFloat16: return body(fp16());
    default: return body(float());
  }
}

}  // namespace thrifty::cuda
