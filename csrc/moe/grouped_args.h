// The arguments of the grouped products' kernels, and how each is started (grouped_rows.cuh,
// grouped_depth.cuh).
#pragma once

#include "moe/groups.cuh"
#include "moe/phi.cuh"

namespace thrifty::moe::cuda {

// Rows that are read through an index: sorted row r is row index[r] / per_token; null: row r.
struct RowSource {
  const void* data = nullptr;
  int64_t stride = 0;  // elements
  int width = 0, vector = 1;
  const void* index = nullptr;
  Dtype index_dtype = Dtype::kInt32;
  int per_token = 1;
  int rows = 0;  // of data; an index beyond reads as zeros

  THRIFTY_DEVICE int source(int r) const {
    int64_t row = r;
    if (index != nullptr) {
      row = load_integer(index, index_dtype, r);
      if (per_token != 1) row = int(row) / per_token;
    }
    return row >= 0 && row < rows ? int(row) : -1;
  }
};

// The other operand: `depth` by `extent` numbers per group. Its lines are contiguous, of depths
// (depth_lines) or across them. `halves`: two such matrices, gate and up, `jump` lines apart.
struct GroupWeights {
  const void* data = nullptr;
  int64_t group = 0, line = 0;  // elements from one to the next
  int extent = 0, depth = 0;
  int vector = 1;
  bool depth_lines = false, halves = false;
  int jump = 0;
};

// Element i of a vector, T or float32; absent when data is null.
struct Numbers {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  template <class A>
  THRIFTY_DEVICE A get(int64_t i) const {
    return load_element<A>(data, dtype, i);
  }
};

enum class Finish { kStore, kUp, kUpGrad };

// What becomes of a product's sums, row r of group e (finish_rows.cuh):
//
//   kStore   out[r] = scale_r (sum + bias_e) + added[r]
//   kUp      z[r] = sum + bias_e     a[r] = phi(z[r])
//   kUpGrad  sum = dA'_r:  dz[r] = s_r dA'_r phi'(z[r])    a[r] = s_r phi(z[r])
//            ds[c][r] = <dA'_r, phi(z[r])> over columns kDotColumns c to kDotColumns (c + 1)
struct RowFinish {
  Finish kind = Finish::kStore;
  int columns = 0;    // of out; neurons
  bool pairs = true;  // two neighbouring columns may be one access, in all arrays
  Numbers bias{};     // [E, bias_width]
  int bias_width = 0;
  Numbers scale{};  // by sorted row, or through scale_index [S]; null: 1
  const int32_t* scale_index = nullptr;
  void* out = nullptr;    // [S, columns]
  bool wide_out = false;  // float32 whatever T is
  const void* added = nullptr;
  int64_t added_stride = 0;
  Phi phi{};
  bool interleaved = false;
  void* z = nullptr;                 // [S, up rows], read by kUpGrad
  void *a = nullptr, *dz = nullptr;  // [S, I], [S, up rows]; null: not wanted
  void* ds = nullptr;                // [ceil(columns / kDotColumns), S] sums, or null
};
constexpr int kDotColumns = 64;

struct RowsArgs {
  RowSource a;
  GroupWeights b;
  Groups groups{};
  RowFinish finish;
  int tiles_n = 0;
};

// out[e] = a[rows of e]^T b[rows of e], rows by `tokens` where given.
struct DepthRows {
  const void* data = nullptr;
  int64_t stride = 0;
  int width = 0, vector = 1;
  const int32_t* rows = nullptr;  // [S], or null
};
struct DepthArgs {
  DepthRows a, b;
  Groups groups{};
  void* out = nullptr;  // [E, a.width, b.width]
  bool wide_out = false, vector = false;
};

// Rows of a tile; the products of float32 and float64 have 64 only.
enum class TileRows { k16, k64, k128 };

cudaError_t launch_rows_bf16(RowsArgs args, TileRows tile, cudaStream_t stream);
cudaError_t launch_rows_fp16(RowsArgs args, TileRows tile, cudaStream_t stream);
cudaError_t launch_rows_float(RowsArgs args, cudaStream_t stream);
cudaError_t launch_rows_double(RowsArgs args, cudaStream_t stream);
cudaError_t launch_depth_bf16(const DepthArgs& args, cudaStream_t stream);
cudaError_t launch_depth_fp16(const DepthArgs& args, cudaStream_t stream);
cudaError_t launch_depth_float(const DepthArgs& args, cudaStream_t stream);
cudaError_t launch_depth_double(const DepthArgs& args, cudaStream_t stream);

}  // namespace thrifty::moe::cuda
