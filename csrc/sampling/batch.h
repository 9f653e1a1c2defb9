// A batch of rows of logits with what every op of the family may say about them: which tokens are
// allowed, the temperature, seeds. Checked once, for torch and NumPy alike.
#pragma once

#include <string>

#include "core/array.h"
#include "core/logits.h"

namespace thrifty::sampling {

// One number per row, or one for all of them.
template <class T>
struct PerRow {
  const T* data = nullptr;  // null: `fallback`
  int64_t stride = 0;       // 1, or 0 where one number serves all
  T fallback{};

  T operator[](int64_t row) const { return data ? data[row * stride] : fallback; }
};

enum Status : int32_t {
  kOk = 0,
  kNothingAllowed = 1,  // no token is allowed, passes the filters and has a logit above -inf
  kBudget = 2,          // awrs: the budget of checks was spent
  kInvalid = 4,         // a NaN or +inf among the row's logits, or logit / T beyond float32
};

struct BatchArgs {
  std::string op;
  Array logits;            // [B, V] float32, bfloat16 or float16; rows contiguous
  Array bitmask;           // [M, W] int32, contiguous, or absent
  Array mask_rows;         // [B] int32: the mask of each row, -1 for none; absent: M = B, in order
  Array inv_temperature;   // float32, one or one per row, or absent: 1
  bool on_device = false;  // values cannot be read
};

struct Batch {
  LogitsRow row(int64_t b) const;

  // 1 / T as kernels take it: 0, which means "all alike", becomes the smallest normal number.
  float inv_temperature_of(int64_t b) const;
  // T = 0, or so little that it is the same: the row's largest logit is taken.
  bool greedy(int64_t b) const { return inv_temperature[b] > kGreedy; }

  static constexpr float kGreedy = 1e30f;

  Dtype dtype = Dtype::kFloat32;
  const void* logits = nullptr;
  int64_t rows = 0, vocab = 0, stride = 0;  // stride in elements
  const uint32_t* mask = nullptr;           // [M, mask_words]
  int64_t masks = 0, mask_words = 0;
  const int32_t* mask_rows = nullptr;
  PerRow<float> inv_temperature{nullptr, 0, 1.0f};
};

Batch check_batch(const BatchArgs& args);

// An optional argument of `dtype` with one element, or one per row.
template <class T>
PerRow<T> check_per_row(const std::string& op, const char* name, const Array& array, Dtype dtype,
                        int64_t rows, T fallback);

// Seeds and offsets: int64, one per row.
const int64_t* check_seeds(const std::string& op, const char* name, const Array& array,
                           int64_t rows);

// body(row, blocks) for all rows; `blocks` runs the blocks of one row. Many rows: one thread each.
// Few: all threads on one row. The results are the same.
template <class Body>
void for_rows(int64_t rows, ParallelFor parallel, const Body& body) {
  constexpr int64_t kFew = 4;
  if (rows < kFew) {
    for (int64_t b = 0; b < rows; ++b) body(b, parallel);
  } else {
    for_each(parallel, rows, [&](int64_t b) { body(b, serial); });
  }
}

}  // namespace thrifty::sampling
