// The nearest direction of each row, and the products of directions among themselves.
//
//   nearest   ids[i] = argmax_c x_i . c - bias_c   the first of equals, NaN is never greater
//   gram      gram[b, c] = b . c
//
// With bias_c = mean . c the first is the argmax of (x - mean) . c. Products of 16-bit rows run on
// tensor cores. Directions are floats, so they are split in two, c = high + low, and what x . c
// loses is some 2^-17 of |x| |c|: as close to the float32 sum as that is to the exact one, where a
// single rounding of c moves 3 of 1000 random rows to another of 256 buckets.
#pragma once

#include "attention/head_rows.h"
#include "attention/plan_nodes.h"
#include "core/cuda/status.h"

namespace thrifty::attention::cuda {

using thrifty::cuda::LaunchStatus;

// Directions in the rows' format, [heads, 2, count, width] for 16 bits, the high halves first, and
// [heads, 1, count, width] for float32; zeros behind the d columns.
struct DirectionArrays {
  void* parts = nullptr;
  float* bias = nullptr;     // mean . c, [heads, count]
  int64_t count = 0;         // of all nodes of a head
  int width = 0, split = 1;  // width: a multiple of 16 bytes

  static DirectionArrays of(Dtype dtype, int64_t d) {
    const int64_t chunk = 16 / dtype_size(dtype);
    DirectionArrays arrays;
    arrays.width = int(round_up(d, chunk)), arrays.split = dtype == Dtype::kFloat32 ? 1 : 2;
    return arrays;
  }
};

struct NearestArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  Part part = kKeys;
  HeadRows rows;
  int64_t head = 0, heads = 0;  // row heads [head, head + heads); directions and ids are of these
  int group = 1;                // row heads of one set of directions
  DirectionArrays directions;
  const float* bias = nullptr;  // [heads, directions.count] or null
  int32_t* ids = nullptr;       // [heads, stride], a node's from its span's `at` on
  int64_t stride = 0;
  int tiles = 0;  // of a head
};

struct GramArgs {
  const PlanNode* nodes = nullptr;
  int node_count = 0;
  int64_t heads = 0;
  int d = 0;
  DirectionArrays directions;
  float* gram = nullptr;  // [heads, stride], a node's [buckets, buckets] from its `gram` on
  int64_t stride = 0;
  int tiles = 0;
};

LaunchStatus nearest(const NearestArgs& args, cudaStream_t stream);
LaunchStatus gram(Dtype dtype, const GramArgs& args, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
