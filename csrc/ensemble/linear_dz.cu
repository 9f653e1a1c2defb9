// dz = s m act'(y) G r' of a layer's backward, and the sums over rows that come with it:
//
//   dr'_j = sum G h      db_j = sum dy      ds_j = sum dy z
//
// dz is written once, in the storage type, and not made anew inside the products: both of them read
// each of its elements once per 128 columns of their result, and every reading would repeat the
// derivative and ten rounds of Philox. A block takes 128 samples of one member and 64 columns; its
// sums are partial, partial_sums.cu adds them in order.
#include "core/cuda/launch.h"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {
namespace {

constexpr int kThreads = 256, kRowLanes = kThreads / kPiecesPerGroup;

// What one element adds to the sums, from y, z, G and the mask.
template <class A>
struct DzSums {
  A dr_next[kPiece] = {}, dbias[kPiece] = {}, ds[kPiece] = {};
};

template <class T>
THRIFTY_DEVICE void backward_piece(const DzArgs& args, const PieceVectors<T>& with,
                                   const PieceDropout& dropout, int j, int q, int first,
                                   DzSums<Sum<T>>& sums) {
  using A = Sum<T>;
  const RowArgs& rows = args.rows;
  const int64_t at = rows.at(j, q) + first;
  const int left = rows.width - first;
  A g[kPiece], z[kPiece] = {}, m[kPiece], dz[kPiece];
  load_piece(static_cast<const T*>(args.grad) + at, left, rows.pairs, g);
  if (args.z != nullptr) load_piece(static_cast<const T*>(args.z) + at, left, rows.pairs, z);
  dropout.mask(uint32_t(rows.number(j, q)), m);
#pragma unroll
  for (int e = 0; e < kPiece; ++e) {
    const A y = z[e] * with.s[e] + with.bias[e];
    if (args.dr_next != nullptr) {
      sums.dr_next[e] += g[e] * m[e] * activation_value(rows.activation, y);
    }
    const A dy = g[e] * with.r_next[e] * m[e] * activation_slope(rows.activation, y);
    sums.dbias[e] += dy;
    sums.ds[e] += dy * z[e];
    dz[e] = dy * with.s[e];
  }
  if (args.dz != nullptr) store_piece<T>(static_cast<T*>(args.dz) + at, left, rows.pairs, dz);
}

// Adds the row lanes' sums in order and stores those of the block's 64 columns.
template <class A>
THRIFTY_DEVICE void store_sums(const A (&sums)[kPiece], A (&shared)[kRowLanes][kGroupColumns],
                               void* out, int64_t at, int left) {
  const int lane = int(threadIdx.x) / kPiecesPerGroup;
  const int first = piece_first(int(threadIdx.x) % kPiecesPerGroup);
#pragma unroll
  for (int e = 0; e < kPiece; ++e) shared[lane][first + piece_offset(e)] = sums[e];
  syncthreads();
  const int column = int(threadIdx.x);
  if (column < kGroupColumns && column < left) {
    A total = 0;
    for (int i = 0; i < kRowLanes; ++i) total += shared[i][column];
    static_cast<A*>(out)[at + column] = total;
  }
  syncthreads();
}

template <class T>
__global__ void __launch_bounds__(kThreads) dz_kernel(const DzArgs args) {
  using A = Sum<T>;
  THRIFTY_SHARED(A, shared, [kRowLanes][kGroupColumns]);
  const int block = int(blockIdx.x), groups = tiles(args.rows.width, kGroupColumns);
  const int group = block % groups * kGroupColumns;
  const int j = block / groups % args.members, chunk = block / groups / args.members;

  DzSums<A> sums;
  const int first = group + piece_first(int(threadIdx.x) % kPiecesPerGroup);
  if (first < args.rows.width) {
    const PieceVectors<T> with(args.rows, j, first);
    const PieceDropout dropout(args.rows.dropout, first);
    const int begin = chunk * kDzRows, samples = args.rows.rows.of(j);
    const int end = begin + kDzRows < samples ? begin + kDzRows : samples;
    for (int q = begin + int(threadIdx.x) / kPiecesPerGroup; q < end; q += kRowLanes) {
      backward_piece<T>(args, with, dropout, j, q, first, sums);
    }
  }
  const int64_t at = (int64_t(chunk) * args.members + j) * args.rows.width + group;
  const int left = args.rows.width - group;
  if (args.dr_next != nullptr) store_sums(sums.dr_next, shared, args.dr_next, at, left);
  if (args.dbias != nullptr) store_sums(sums.dbias, shared, args.dbias, at, left);
  if (args.ds != nullptr) store_sums(sums.ds, shared, args.ds, at, left);
}

template <class T>
cudaError_t launch_dz_as(const DzArgs& args, cudaStream_t stream) {
  dim3 grid;
  const int64_t chunks = tiles(args.rows.rows.of(0), kDzRows);
  if (!one_dimensional_grid(chunks * tiles(args.rows.width, kGroupColumns) * args.members, grid)) {
    return cudaErrorInvalidConfiguration;
  }
  return launch(dz_kernel<T>, grid, kThreads, 0, stream, args);
}

}  // namespace

cudaError_t launch_dz(Dtype dtype, const DzArgs& args, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::kBFloat16: return launch_dz_as<bf16>(args, stream);
    case Dtype::kFloat16: return launch_dz_as<fp16>(args, stream);
    case Dtype::kFloat32: return launch_dz_as<float>(args, stream);
    default: return launch_dz_as<double>(args, stream);
  }
}

}  // namespace thrifty::ensemble::cuda
