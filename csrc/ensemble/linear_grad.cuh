// The two products of a layer's backward as one kernel:
//
//   g  = dz W        rows are samples, columns inputs, the depth is the layer's outputs
//   dW = dz^T x      rows are outputs, columns inputs, the depth runs over samples
//
// Where the layer has an r, both end the same way. With acc_j the product of member j alone,
//
//   sum += acc_j r_j      dr_j[n] = sum_m other[m][n] acc_j[m][n]
//
// gives dx (other = x) resp. dW (other = W): r never multiplies an operand, dr costs no product of
// its own, and the gradient (B, k, in) of a shared x never exists, since a block walks over the
// members. Long sums are cut into splits of fixed size, whose partial sums are added in order by
// partial_sums.cu.
#pragma once

#include "core/block_tile.cuh"
#include "core/cuda/launch.h"

namespace thrifty::ensemble::cuda {

// Rows and columns of the blocks that go member by member, by the size of an element.
constexpr int grad_tile(int64_t element) { return element == 8 ? 64 : 128; }

struct GradArgs {
  Product product;
  int members = 0;
  int units = 1;  // matrices of results: one, or one per member
  int member_splits = 1, depth_splits = 1;
  int depth_chunk = 0;  // of one depth split
  RowCount rows;        // of the result
  int columns = 0;
  Vector r;
  Matrix other;
  void* dr = nullptr;  // partial sums [depth split, row tile][member][column], or null
  void* out = nullptr;
  void* partial = nullptr;  // sums [split][unit][row][column] instead of `out`
  RowAddress at;            // rows of the result
  bool vector = false;      // as BlockTile::store

  int splits() const { return member_splits * depth_splits; }
};

// The end of each member: its share of the result and its dr.
//
// With 16-bit operands, other[m][n] of the block's place is kept in shared memory, where fragments
// find it without bank conflicts; beside the slower SIMT products reading it again costs nothing.
template <class P>
struct MemberGrad {
  using T = typename P::T;
  using A = typename P::A;
  using Sums = typename P::Sums;
  static_assert(P::kM == grad_tile(sizeof(T)) && P::kN == P::kM);
  static constexpr bool kKeepsOther = sizeof(T) == 2;
  static constexpr int kStride = P::kN + 8;
  static constexpr int kOtherBytes = kKeepsOther ? P::kM * kStride * int(sizeof(T)) : 0;
  static constexpr int kBytes = kOtherBytes + Sums::kRowGroups * P::kN * int(sizeof(A));

  const GradArgs& args;
  const Place& place;
  const int slot;  // of this block's dr
  T* const kept;
  A* const column_sums;
  Sums total;

  THRIFTY_DEVICE MemberGrad(const GradArgs& args, const Place& place, int slot,
                            unsigned char* shared)
      : args(args),
        place(place),
        slot(slot),
        kept(reinterpret_cast<T*>(shared)),
        column_sums(reinterpret_cast<A*>(shared + kOtherBytes)) {
    if constexpr (kKeepsOther) {
      const int count = args.dr != nullptr ? P::kM * P::kN : 0;
      for (int i = int(threadIdx.x); i < count; i += P::kThreads) {
        const int row = i / P::kN, column = i % P::kN;
        kept[row * kStride + column] = load_other(place.member, row, column);
      }
    }
  }

  // Takes over the sums of member j, which begin again at 0.
  THRIFTY_DEVICE void add(int j, Sums& sums) {
#pragma unroll
    for (int c = 0; c < Sums::kColumns; ++c) {
      const int n = place.n + Sums::column(c);
      const A r = n < args.columns ? load<T>(args.r, j, n) : A(0);
      if (args.dr != nullptr) add_column(j, c, sums);
#pragma unroll
      for (int i = 0; i < Sums::kRows; ++i) {
        total(i, c) += sums(i, c) * r;
        sums(i, c) = 0;
      }
    }
    if (args.dr != nullptr) store_dr(j);
  }

 private:
  THRIFTY_DEVICE T load_other(int j, int row, int column) const {
    const int q = place.m + row, c = place.n + column;
    if (q >= args.rows.of(j) || c >= args.columns) return from_float<T>(0.0f);
    return load_readonly(static_cast<const T*>(args.other.data) + args.other.at(j, q) + c);
  }

  // Rows beyond the last have no part, whatever their product came to (0 times inf).
  THRIFTY_DEVICE void add_column(int j, int c, Sums& sums) {
    const int rows = args.rows.of(j);
    A dr = 0;
#pragma unroll
    for (int i = 0; i < Sums::kRows; ++i) {
      const int row = Sums::row(i), column = Sums::column(c);
      if (place.m + row >= rows) continue;
      dr += to_float(kKeepsOther ? kept[row * kStride + column] : load_other(j, row, column)) *
            sums(i, c);
    }
    dr = Sums::fold(dr);
    if (Sums::holds_fold()) column_sums[Sums::row_group() * P::kN + Sums::column(c)] = dr;
  }

  THRIFTY_DEVICE void store_dr(int j) const {
    syncthreads();
    const int64_t row = int64_t(slot) * args.members + j;
    A* const out = static_cast<A*>(args.dr) + row * args.columns + place.n;
    for (int c = int(threadIdx.x); c < P::kN; c += P::kThreads) {
      if (place.n + c >= args.columns) break;
      A dr = 0;
      for (int group = 0; group < Sums::kRowGroups; ++group) dr += column_sums[group * P::kN + c];
      out[c] = dr;
    }
  }
};

template <class P>
THRIFTY_DEVICE void store_grad(const GradArgs& args, unsigned char* shared, typename P::Sums& sums,
                               const Place& place, int unit, int split) {
  const BlockTile<P> tile(shared, sums);
  const int rows = args.rows.of(unit);
  if (args.partial != nullptr) {
    const int64_t size = int64_t(rows) * args.columns;
    const RowAddress dense{args.columns, size, 0, 1};
    auto* const partial = static_cast<typename P::A*>(args.partial) + split * args.units * size;
    tile.store(partial, dense, unit, place, rows, args.columns, args.vector);
  } else if (args.out != nullptr) {
    tile.store(static_cast<typename P::T*>(args.out), args.at, unit, place, rows, args.columns,
               args.vector);
  }
}

template <class P, bool kByMember>
__global__ void __launch_bounds__(P::kThreads, kByMember ? 1 : P::kBlocksPerSm)
    linear_grad_kernel(const GradArgs args) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  const int tiles_n = tiles(args.columns, P::kN), tiles_m = tiles(args.rows.of(0), P::kM);
  const int tile_m = int(blockIdx.x) / tiles_n % tiles_m, z = int(blockIdx.x) / tiles_n / tiles_m;
  const int unit = z % args.units, split = z / args.units;
  const int member_split = split % args.member_splits, depth_split = split / args.member_splits;
  Place place;
  place.n = int(blockIdx.x) % tiles_n * P::kN;
  place.m = tile_m * P::kM;
  place.member = unit, place.member_end = unit + 1;
  if (args.units == 1) {
    place.member = int(int64_t(args.members) * member_split / args.member_splits);
    place.member_end = int(int64_t(args.members) * (member_split + 1) / args.member_splits);
  }
  place.depth = depth_split * args.depth_chunk;
  place.depth_end = place.depth + args.depth_chunk;

  typename P::Sums sums;
  if constexpr (kByMember) {
    MemberGrad<P> grad(args, place, depth_split * tiles_m + tile_m, shared + P::kSharedBytes);
    P::template run<false>(args.product, place, shared, sums, [&](int j) { grad.add(j, sums); });
    store_grad<P>(args, shared, grad.total, place, unit, split);
  } else {
    P::template run<false>(args.product, place, shared, sums, [](int) {});
    store_grad<P>(args, shared, sums, place, unit, split);
  }
}

template <class P, bool kByMember>
cudaError_t launch_linear_grad(const GradArgs& args, cudaStream_t stream) {
  dim3 grid;
  const int64_t blocks = int64_t(tiles(args.rows.of(0), P::kM)) * tiles(args.columns, P::kN);
  if (!one_dimensional_grid(blocks * args.units * args.splits(), grid)) {
    return cudaErrorInvalidConfiguration;
  }
  int bytes = P::kSharedBytes;
  if constexpr (kByMember) bytes += MemberGrad<P>::kBytes;
  bytes = bytes > BlockTile<P>::kBytes ? bytes : BlockTile<P>::kBytes;
  return launch(linear_grad_kernel<P, kByMember>, grid, P::kThreads, bytes, stream, args);
}

}  // namespace thrifty::ensemble::cuda
