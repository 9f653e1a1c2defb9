// A Layer as the kernels see it: rows per member, vectors per member, and the choice of tiles. Host
// code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ensemble/linear.h"
#include "ensemble/linear_fwd.cuh"

namespace thrifty::ensemble::cuda {

// Elements of one access of up to 16 bytes that address, strides and width allow.
inline int access_width(Dtype dtype, const void* data, const RowAddress& at, int64_t width) {
  const int64_t size = dtype_size(dtype);
  int64_t vector = 16 / size;
  const auto fits = [&] {
    return reinterpret_cast<uintptr_t>(data) % uintptr_t(vector * size) == 0 &&
           at.outer % vector == 0 && at.inner % vector == 0 && at.member % vector == 0 &&
           width % vector == 0;
  };
  while (vector > 1 && !fits()) vector /= 2;
  return int(vector);
}

// `rows` of `width` elements, the next member `member` elements further.
inline Matrix plain_matrix(Dtype dtype, const void* data, int64_t rows, int64_t width,
                           int64_t member = 0) {
  const RowAddress at{width, member, 0, 1};
  return {data, at, {int(rows)}, int(width), access_width(dtype, data, at, width)};
}

inline RowCount sample_count(const RowMap& map) {
  const int64_t cycle = map.group * map.k, tail = map.rows % cycle;
  return {int(map.rows / cycle * map.group), int(tail / map.group), int(tail % map.group),
          int(map.group)};
}

// Where the rows of each member begin among rows that lie `stride` apart.
inline RowAddress sample_rows(const RowMap& map, int64_t stride) {
  if (map.group == 1) return {map.k * stride, stride, 0, 1};
  return {map.k * map.group * stride, map.group * stride, stride, int(map.group)};
}

// Contiguous rows of all members: out, z, grad, dz.
inline Matrix sample_matrix(const Layer& layer, const void* data, int64_t width) {
  const RowAddress at = sample_rows(layer.map, width);
  return {data, at, sample_count(layer.map), int(width),
          access_width(layer.dtype, data, at, width)};
}

inline Matrix x_matrix(const Layer& layer) {
  const RowAddress at = layer.map.group == 1 ? RowAddress{layer.x_outer, layer.x_inner, 0, 1}
                                             : sample_rows(layer.map, layer.x_inner);
  return {layer.x, at, sample_count(layer.map), int(layer.in),
          access_width(layer.dtype, layer.x, at, layer.in)};
}

// (out, in), or per member (in, out).
inline Matrix weight_matrix(const Layer& layer) {
  return layer.packed
             ? plain_matrix(layer.dtype, layer.weight, layer.in, layer.out, layer.in * layer.out)
             : plain_matrix(layer.dtype, layer.weight, layer.out, layer.in);
}

inline Vector member_vector(const Layer& layer, const Array& array) {
  if (!array) return {};
  return {array.data, array.ndim == 2 ? array.shape[1] : 0,
          is_half(layer.dtype) && array.dtype == Dtype::kFloat32};
}

inline RowArgs row_args(const Layer& layer) {
  RowArgs args;
  args.s = member_vector(layer, layer.s);
  args.bias = member_vector(layer, layer.bias);
  args.r_next = member_vector(layer, layer.r_next);
  args.activation = layer.activation;
  if (layer.dropout.enabled()) {
    args.dropout = {static_cast<const int64_t*>(layer.seed.data), layer.seed.stride(0),
                    layer.dropout.threshold, layer.dropout.scale};
  }
  args.number = sample_rows(layer.map, 1);
  args.at = sample_rows(layer.map, layer.out);
  args.rows = sample_count(layer.map);
  args.width = int(layer.out);
  return args;
}

// Whether all rows of x lie the same distance apart, so that a product that treats all members
// alike may take them as the rows of one: full tiles whatever the batch, in the order of memory.
inline bool uniform_rows(const Layer& layer) {
  constexpr int64_t kMaxRows = int64_t(1) << 30;
  return !layer.packed && !layer.shared_x && layer.x_outer == layer.map.k * layer.x_inner &&
         layer.rows() <= kMaxRows;
}
inline Layer as_one_member(Layer layer) {
  layer.map = {layer.rows(), 1, 1};
  layer.x_outer = layer.x_inner;
  layer.x_inner = 0;
  return layer;
}

// The same layer in the form that is cheapest to run.
inline Layer simplified(Layer layer) {
  if (layer.map.k == 1 && layer.shared_x) {
    layer.shared_x = false;
    layer.x_inner = layer.x_outer;
  }
  layer.map.group = std::min(layer.map.group, std::max<int64_t>(1, layer.rows()));
  const bool alike = !layer.r && !layer.s && !layer.r_next && layer.bias.ndim != 2;
  return alike && uniform_rows(layer) ? as_one_member(layer) : layer;
}

// Problems that would leave most of the larger tiles, or most of the device, idle.
inline bool prefers_small_tiles(int rows, int columns, int members) {
  constexpr int64_t kEnoughBlocks = 128;
  const int64_t blocks = int64_t(tiles(rows, 128)) * tiles(columns, 128) * members;
  return rows <= 64 || columns <= 64 || blocks < kEnoughBlocks;
}

inline FwdArgs fwd_args(const Layer& layer, void* out, void* z) {
  FwdArgs args;
  args.product = {
      x_matrix(layer), weight_matrix(layer), {int(layer.in)}, member_vector(layer, layer.r)};
  args.rows = row_args(layer);
  args.rows.pairs = access_width(layer.dtype, out, args.rows.at, layer.out) >= 2 &&
                    access_width(layer.dtype, z, args.rows.at, layer.out) >= 2;
  args.out = out, args.z = z;
  args.members = int(layer.map.k);
  return args;
}

}  // namespace thrifty::ensemble::cuda
