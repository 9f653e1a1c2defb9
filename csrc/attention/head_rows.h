// Rows of heads as CUDA kernels get them (Heads of problem.h).
#pragma once

#include <algorithm>
#include <cstdint>

#include "attention/problem.h"
#include "core/dtype.h"

namespace thrifty::attention::cuda {

struct HeadRows {  // [batch, heads, n, d]
  const void* data = nullptr;
  int64_t batch_stride = 0, head_stride = 0, row_stride = 0;  // elements
  int heads = 1;
  int d = 0;
  int vector = 1;  // elements that one access may take: addresses, strides and d divide by it
  Dtype dtype = Dtype::kFloat32;
};

inline HeadRows head_rows(Dtype dtype, const Heads& x, int64_t heads, int64_t d) {
  const int64_t size = dtype_size(dtype);
  int64_t vector = 16 / size;
  const auto fits = [&](int64_t n) { return n % vector == 0; };
  while (vector > 1 && !(fits(int64_t(reinterpret_cast<uintptr_t>(x.data)) / size) && fits(d) &&
                         fits(x.batch_stride) && fits(x.head_stride) && fits(x.row_stride))) {
    vector /= 2;
  }
  return {x.data, x.batch_stride, x.head_stride, x.row_stride, int(std::max<int64_t>(heads, 1)),
          int(d), int(vector),    dtype};
}

}  // namespace thrifty::attention::cuda
