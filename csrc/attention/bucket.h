// Buckets of vectors: sides of hyperplanes, or the nearest of some directions.
//
//   lsh_bucket       the code with bit r = (x . plane_r > 0), as its rank in Gray order: buckets
//                    whose ranks are neighbours differ in one hyperplane (HyperAttention,
//                    arXiv 2310.05869, algorithm 1, with the published table's direction mended)
//   centroid_bucket  argmax_c x . centroid_c, the first of equals
//
// Sums are float32 for every format. Both are products with a thin matrix, so both are one loop
// over blocks of rows that are widened (and centred) once.
#pragma once

#include <vector>

#include "attention/problem.h"
#include "core/array.h"
#include "core/scratch.h"

namespace thrifty::attention {

// Storage format to float.
void to_float(Dtype dtype, int64_t n, const void* from, float* to);

// Packed directions [count, D] that rows are compared with.
class Directions {
 public:
  // transposed: given as [D, count]
  Directions(const float* directions, int64_t count, int64_t d, bool transposed = false);
  // Bucket of `rows` rows, by the largest product or by signs; mean [D] or null.
  void nearest(Dtype dtype, Rows x, int64_t rows, const float* mean, int32_t* ids) const;
  void signs(Dtype dtype, Rows x, int64_t rows, const float* mean, int32_t* ids) const;
  // The products themselves, [rows, ld] with ld >= width().
  void products(const float* x, int64_t rows, float* out, int64_t ld) const;
  int64_t width() const { return round_up(count_, 32); }

 private:
  template <class Finish>
  void blocks(Dtype dtype, Rows x, int64_t rows, const float* mean, const Finish& finish) const;

  int64_t count_, d_;
  Scratch panels_;
};

// The ops on arrays that check.h has passed: x [..., N, D] and mean dense, ids [..., N].
void lsh_bucket(const Array& x, const Array& planes, const Array& mean, int32_t* ids,
                ParallelFor parallel);
void centroid_bucket(const Array& x, const Array& centroids, const Array& mean, int32_t* ids,
                     ParallelFor parallel);

// Normals of hyperplanes [d, count], standard normal numbers by Box and Muller: that of (i, r) is
// sqrt(-2 ln u) cos(2 pi u') with u and u' the words 0 and 1 of slot r d + i (plan.h).
void lsh_planes(uint64_t seed, uint64_t offset, int64_t d, int64_t count, float* planes);

inline int32_t gray_rank(uint32_t code) {
  for (int shift = 1; shift < 32; shift *= 2) code ^= code >> shift;
  return int32_t(code);
}

}  // namespace thrifty::attention
