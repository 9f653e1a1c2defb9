#include "attention/bucket.h"

#include <algorithm>

namespace thrifty::attention {
namespace {

const GemmKernels& gemm() { return gemm_table().storage[int(Dtype::kFloat32)]; }

constexpr int64_t kRows = kTileRows;

}  // namespace

void to_float(Dtype dtype, int64_t n, const void* from, float* to) {
  if (dtype == Dtype::kFloat64) {
    std::transform(static_cast<const double*>(from), static_cast<const double*>(from) + n, to,
                   [](double x) { return float(x); });
  } else {
    attention_tiles().storage[int(dtype)].widen(n, from, to);
  }
}

Directions::Directions(const float* directions, int64_t count, int64_t d, bool transposed)
    : count_(count), d_(d), panels_(gemm().panels_bytes(d, count)) {
  const MatrixView view{directions, transposed ? count : 1, transposed ? 1 : d};
  gemm().pack(d, count, view, panels_.data());
}

void Directions::products(const float* x, int64_t rows, float* out, int64_t ld) const {
  gemm().gemm(rows, count_, d_, x, d_, panels_.data(), out, ld, false);
}

template <class Finish>
void Directions::blocks(Dtype dtype, Rows x, int64_t rows, const float* mean,
                        const Finish& finish) const {
  Scratch block(kRows * d_ * 4), scores(kRows * width() * 4);
  std::fill(block.as<float>(), block.as<float>() + kRows * d_, 0.0f);
  for (int64_t at = 0; at < rows; at += kRows) {
    const int64_t count = std::min(kRows, rows - at);
    for (int64_t i = 0; i < count; ++i) {
      float* row = block.as<float>() + i * d_;
      to_float(dtype, d_, x.from(at + i, dtype_size(dtype)).data, row);
      for (int64_t c = 0; mean != nullptr && c < d_; ++c) row[c] -= mean[c];
    }
    products(block.as<float>(), count, scores.as<float>(), width());
    finish(at, count, scores.as<float>());
  }
}

void Directions::nearest(Dtype dtype, Rows x, int64_t rows, const float* mean, int32_t* ids) const {
  const std::vector<float> zeros(size_t(width()), 0.0f);
  blocks(dtype, x, rows, mean, [&](int64_t at, int64_t count, const float* scores) {
    attention_tiles().argmax(count, count_, scores, width(), zeros.data(), ids + at);
  });
}

void Directions::signs(Dtype dtype, Rows x, int64_t rows, const float* mean, int32_t* ids) const {
  blocks(dtype, x, rows, mean, [&](int64_t at, int64_t count, const float* scores) {
    for (int64_t i = 0; i < count; ++i) {
      uint32_t code = 0;
      for (int64_t r = 0; r < count_; ++r) {
        code |= uint32_t(scores[i * width() + r] > 0) << r;
      }
      ids[at + i] = gray_rank(code);
    }
  });
}

}  // namespace thrifty::attention
