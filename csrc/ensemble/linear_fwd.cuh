// Forward of a layer: z = (x r_j) W^T and out = m act(s z + b) r' in one kernel.
//
// A block computes up to 128 samples of one member by 128 columns: s, b, r' are one vector each,
// and r multiplies the operand on its way from shared memory to the tensor cores, so that an x of
// (B, in) is never repeated for k members. Blocks run column tiles first, then members, so that
// those at work together share rows of x and W in the second-level cache.
#pragma once

#include "core/block_tile.cuh"
#include "core/cuda/launch.h"
#include "ensemble/row_piece.cuh"

namespace thrifty::ensemble::cuda {

struct FwdArgs {
  Product product;
  RowArgs rows;
  void* out = nullptr;
  void* z = nullptr;  // or null
  int members = 0;
};

// y is made of the z that is stored, rounded: backward sees the same y, and relu's gradient belongs
// to the function that was computed.
template <class P>
THRIFTY_DEVICE void finish_tile(const FwdArgs& args, const BlockTile<P>& tile, const Place& place) {
  using T = typename P::T;
  using A = typename P::A;
  constexpr int kPieces = P::kN / kPiece;  // threads side by side along a row
  const RowArgs& with = args.rows;
  const int piece = int(threadIdx.x) % kPieces;
  const int column = piece / kPiecesPerGroup * kGroupColumns + piece_first(piece % kPiecesPerGroup);
  const int first = place.n + column, left = with.width - first;
  if (left <= 0) return;
  const int j = place.member, samples = with.rows.of(j);
  const PieceVectors<T> vectors(with, j, first);
  const PieceDropout dropout(with.dropout, first);
#pragma unroll 1
  for (int row = int(threadIdx.x) / kPieces; row < P::kM; row += P::kThreads / kPieces) {
    const int q = place.m + row;
    if (q >= samples) break;
    A z[kPiece], m[kPiece], h[kPiece];
#pragma unroll
    for (int e = 0; e < kPiece; e += 2) {
      const Vec<A, 2> pair =
          load_vec<2>(tile.data + row * BlockTile<P>::kStride + column + piece_offset(e));
      z[e] = pair[0], z[e + 1] = pair[1];
    }
    const int64_t at = with.at(j, q) + first;
    if (args.z != nullptr) {
      store_piece<T>(static_cast<T*>(args.z) + at, left, with.pairs, z);
#pragma unroll
      for (int e = 0; e < kPiece; ++e) z[e] = to_float(from_float<T>(z[e]));
    }
    dropout.mask(uint32_t(with.number(j, q)), m);
#pragma unroll
    for (int e = 0; e < kPiece; ++e) {
      const A y = z[e] * vectors.s[e] + vectors.bias[e];
      h[e] = activation_value(with.activation, y) * m[e] * vectors.r_next[e];
    }
    store_piece<T>(static_cast<T*>(args.out) + at, left, with.pairs, h);
  }
}

template <class P, bool kScaled>
__global__ void __launch_bounds__(P::kThreads, P::kBlocksPerSm)
    linear_fwd_kernel(const FwdArgs args) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  const int block = int(blockIdx.x), tiles_n = tiles(args.rows.width, P::kN);
  Place place;
  place.n = block % tiles_n * P::kN;
  place.m = block / tiles_n / args.members * P::kM;
  place.member = block / tiles_n % args.members;
  place.member_end = place.member + 1;
  place.depth_end = args.product.depth.full;
  typename P::Sums sums;
  P::template run<kScaled>(args.product, place, shared, sums, [](int) {});
  const BlockTile<P> tile(shared, sums);
  finish_tile<P>(args, tile, place);
}

template <class P, bool kScaled>
cudaError_t launch_linear_fwd(const FwdArgs& args, cudaStream_t stream) {
  dim3 grid;
  const int64_t tiles_m = tiles(args.rows.rows.of(0), P::kM);
  if (!one_dimensional_grid(tiles_m * tiles(args.rows.width, P::kN) * args.members, grid)) {
    return cudaErrorInvalidConfiguration;
  }
  constexpr int kBytes =
      P::kSharedBytes > BlockTile<P>::kBytes ? P::kSharedBytes : BlockTile<P>::kBytes;
  return launch(linear_fwd_kernel<P, kScaled>, grid, P::kThreads, kBytes, stream, args);
}

}  // namespace thrifty::ensemble::cuda
