#include "attention/bucket.h"

#include <algorithm>
#include <cmath>

#include "core/philox.h"

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

namespace {

// Row i of a dense array of rows.
std::byte* row_of(const Array& a, int64_t i, int64_t elements) {
  return static_cast<std::byte*>(a.data) + i * elements * dtype_size(a.dtype);
}

std::vector<float> centre_of(const Array& mean, int64_t i, int64_t d) {
  std::vector<float> centre(mean ? size_t(d) : 0);
  if (mean) to_float(mean.dtype, d, row_of(mean, i, d), centre.data());
  return centre;
}

int64_t slices_of(const Array& x) {
  return x.numel() > 0 ? x.numel() / x.size(-1) / x.size(-2) : 0;
}

}  // namespace

void lsh_bucket(const Array& x, const Array& planes, const Array& mean, int32_t* ids,
                ParallelFor parallel) {
  const int64_t n = x.size(-2), d = x.size(-1);
  const Directions directions(static_cast<const float*>(planes.data), planes.size(1), d, true);
  for_each(parallel, slices_of(x), [&](int64_t i) {
    const std::vector<float> centre = centre_of(mean, i, d);
    directions.signs(x.dtype, {row_of(x, i, n * d), d}, n, mean ? centre.data() : nullptr,
                     ids + i * n);
  });
}

void centroid_bucket(const Array& x, const Array& centroids, const Array& mean, int32_t* ids,
                     ParallelFor parallel) {
  const int64_t n = x.size(2), d = x.size(3), heads = x.size(1), count = centroids.size(2);
  const int64_t shared = centroids.size(1), group = heads / shared;
  for_each(parallel, slices_of(x), [&](int64_t i) {
    std::vector<float> points(static_cast<size_t>(count * d));
    const int64_t from = i / heads * shared + i % heads / group;
    to_float(centroids.dtype, count * d, row_of(centroids, from, count * d), points.data());
    const std::vector<float> centre = centre_of(mean, i, d);
    Directions(points.data(), count, d)
        .nearest(x.dtype, {row_of(x, i, n * d), d}, n, mean ? centre.data() : nullptr, ids + i * n);
  });
}

void lsh_planes(uint64_t seed, uint64_t offset, int64_t d, int64_t count, float* planes) {
  constexpr double kTurn = 6.283185307179586, kWords = 4294967296.0;
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t i = 0; i < d; ++i) {
      const Philox4 draw =
          philox(seed, {{uint32_t(r * d + i), 0, uint32_t(offset), uint32_t(offset >> 32)}});
      const double u = (draw.word[0] + 0.5) / kWords, turn = (draw.word[1] + 0.5) / kWords;
      planes[i * count + r] = float(std::sqrt(-2 * std::log(u)) * std::cos(kTurn * turn));
    }
  }
}

}  // namespace thrifty::attention
