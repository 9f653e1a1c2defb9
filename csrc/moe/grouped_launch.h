// The host side that the grouped products share: strides and alignments as the kernels see them,
// and the choice of tiles. Nothing reads the offsets.
#pragma once

#include <algorithm>
#include <string>

#include "core/cuda/device.h"
#include "core/error.h"
#include "moe/grouped_sm90.h"
#include "moe/product.h"

namespace thrifty::moe::cuda {

// Elements of one access of up to 16 bytes that an address, strides and widths allow.
inline int access_width(Dtype dtype, const void* data, std::initializer_list<int64_t> counts) {
  const int64_t size = dtype_size(dtype);
  int64_t vector = 16 / size;
  const auto fits = [&] {
    return reinterpret_cast<uintptr_t>(data) % uintptr_t(vector * size) == 0 &&
           std::all_of(counts.begin(), counts.end(), [&](int64_t n) { return n % vector == 0; });
  };
  while (vector > 1 && !fits()) vector /= 2;
  return int(vector);
}

inline RowSource row_source(Dtype dtype, const void* data, int64_t rows, int64_t width,
                            int64_t stride) {
  RowSource source{.data = data, .stride = stride};
  source.width = int(width), source.rows = int(rows);
  source.vector = access_width(dtype, data, {width, stride});
  return source;
}

// W_e x_r for every row: w.n columns, depths w.k. `halves`: gate and up, each half of w.n.
inline GroupWeights group_weights(const Weights& w, bool halves) {
  GroupWeights g{.data = w.data, .group = w.expert_stride};
  g.depth_lines = w.k_stride == 1;
  g.line = g.depth_lines ? w.n_stride : w.k_stride;
  g.halves = halves;
  g.extent = int(halves ? w.n / 2 : w.n), g.jump = int(halves ? w.n / 2 : 0);
  g.depth = int(w.k);
  g.vector = access_width(w.dtype, w.data,
                          {w.expert_stride, g.line, g.depth_lines ? w.k : int64_t(g.extent)});
  return g;
}

// Whether two neighbouring elements may be one access; of absent data the counts alone decide.
inline bool even_rows(Dtype dtype, const void* data, std::initializer_list<int64_t> counts) {
  return access_width(dtype, data, counts) >= 2;
}

// Tiles by the rows that a group has on average: how they are spread is known to the device alone.
inline TileRows tile_rows(int64_t rows, int64_t groups) {
  const int64_t average = rows / std::max<int64_t>(1, std::min(groups, rows));
  return average <= 16 ? TileRows::k16 : average <= 64 ? TileRows::k64 : TileRows::k128;
}

// On Hopper its own kernels; cudaErrorNotSupported: not there, or not with these arguments.
inline cudaError_t launch_rows_hopper(Dtype dtype, const RowsArgs& args, TileRows tile,
                                      cudaStream_t stream) {
  if (!is_half(dtype) || !fits_sm90(args)) return cudaErrorNotSupported;
  DeviceInfo device;
  if (const cudaError_t error = device_info(&device); error != cudaSuccess) return error;
  if (device.major != 9) return cudaErrorNotSupported;
  const auto start = dtype == Dtype::kBFloat16 ? launch_rows_sm90_bf16 : launch_rows_sm90_fp16;
  return start(args, tile, device.processors, stream);
}

inline cudaError_t launch_rows(Dtype dtype, const RowsArgs& args, cudaStream_t stream) {
  const TileRows tile = tile_rows(args.groups.rows, args.groups.count);
  const cudaError_t hopper = launch_rows_hopper(dtype, args, tile, stream);
  if (hopper != cudaErrorNotSupported) return hopper;
  switch (dtype) {
    case Dtype::kBFloat16: return launch_rows_bf16(args, tile, stream);
    case Dtype::kFloat16: return launch_rows_fp16(args, tile, stream);
    case Dtype::kFloat32: return launch_rows_float(args, stream);
    default: return launch_rows_double(args, stream);
  }
}

inline cudaError_t launch_depth(Dtype dtype, const DepthArgs& args, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::kBFloat16: return launch_depth_bf16(args, stream);
    case Dtype::kFloat16: return launch_depth_fp16(args, stream);
    case Dtype::kFloat32: return launch_depth_float(args, stream);
    default: return launch_depth_double(args, stream);
  }
}

// Kernels count in 32 bits.
inline void check_size(const std::string& op, const char* what, int64_t count) {
  constexpr int64_t kMax = int64_t(1) << 30;
  THRIFTY_CHECK(count <= kMax, op, ": ", what, ": expected at most 2^30 on CUDA, got ", count);
}

}  // namespace thrifty::moe::cuda
