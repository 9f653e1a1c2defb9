// A row belongs to eight lanes, which take turns at its pieces; a group of them has four rows, so
// that what is read of the planes serves four times. Planes lie in shared memory in such an order
// that the lanes of a group read next to each other.
#include "attention/row_pieces.cuh"
#include "attention/thin_product_cuda.h"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"

namespace thrifty::attention::cuda {
namespace {

constexpr int kThreads = 256, kLanes = 8, kGroups = kThreads / kLanes, kRows = kTile / kGroups;
constexpr int kColumns = 256;  // of the planes, in shared memory at a time

// Columns [c0, c0 + kColumns) of mean and planes.
template <class T, int kPlanes>
struct ThinTile {
  static constexpr int kPieces = kColumns / kPiece<T>;
  float* mean;    // [kColumns]
  float* planes;  // [kPiece, kPieces, kPlanes]

  static THRIFTY_DEVICE int at(int piece, int e) { return (e * kPieces + piece) * kPlanes; }

  template <bool kSigns>
  THRIFTY_DEVICE void load(const ThinArgs& args, int64_t place, int c0) const {
    const int d = args.rows.d;
    for (int c = int(threadIdx.x); c < kColumns; c += kThreads) {
      const bool inside = c0 + c < d;
      mean[c] = inside && args.mean != nullptr
                    ? load_element<float>(args.mean, args.mean_dtype, place * d + c0 + c)
                    : 0.0f;
      float* const to = planes + at(c / kPiece<T>, c % kPiece<T>);
      const float* const from =
          kSigns ? args.planes + int64_t(c0 + c) * args.bits : args.planes + place * d + c0 + c;
#pragma unroll
      for (int r = 0; r < kPlanes; ++r) to[r] = inside && r < args.bits ? from[r] : 0.0f;
    }
  }
};

THRIFTY_DEVICE int32_t gray_rank(uint32_t code) {
  for (int shift = 1; shift < 32; shift *= 2) code ^= code >> shift;
  return int32_t(code);
}

template <class T, int kPlanes, bool kSigns>
__global__ void __launch_bounds__(kThreads, 1) thin_product_kernel(const ThinArgs args) {
  THRIFTY_SHARED(float, planes, [kColumns * kPlanes]);
  THRIFTY_SHARED(float, mean, [kColumns]);
  const ThinTile<T, kPlanes> shared{mean, planes};
  const int64_t head = blockIdx.x / args.tiles;
  int64_t first = int64_t(blockIdx.x % args.tiles) * kTile, count = args.n, place = head;
  const int64_t in_head = head_at(args.rows, args.head + head);
  int64_t begin = 0, out = head * args.stride;
  if (args.nodes != nullptr) {
    const int tile = int(blockIdx.x % args.tiles);
    const PlanNode& node = find_node({args.nodes, args.node_count}, tile,
                                     [](const PlanNode& n) { return int64_t(n.part[kKeys].tile); });
    const Span& span = node.part[kKeys];
    first = int64_t(tile - span.tile) * kTile, count = span.count, begin = span.begin;
    out += span.at, place = head * args.node_count + (&node - args.nodes);
  }
  const int lane = int(threadIdx.x) % kLanes, group = int(threadIdx.x) / kLanes;
  const T* row[kRows];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    const int64_t at = first + group + i * kGroups;
    const int64_t safe = at < count ? at : count - 1;
    row[i] =
        static_cast<const T*>(args.rows.data) + in_head + (begin + safe) * args.rows.row_stride;
  }
  float sum[kRows][kPlanes] = {};
#pragma unroll 1
  for (int c0 = 0; c0 < args.rows.d; c0 += kColumns) {
    syncthreads();
    shared.template load<kSigns>(args, place, c0);
    syncthreads();
    const int width = args.rows.d - c0 < kColumns ? args.rows.d - c0 : kColumns;
#pragma unroll 1
    for (int piece = lane; piece * kPiece<T> < width; piece += kLanes) {
      float x[kRows][kPiece<T>];
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        load_piece<T>(row[i], c0 + piece * kPiece<T>, args.rows.d, args.rows.vector, x[i]);
      }
#pragma unroll
      for (int e = 0; e < kPiece<T>; ++e) {
        const float centre = mean[piece * kPiece<T> + e];
        const float* const plane = planes + shared.at(piece, e);
#pragma unroll
        for (int r = 0; r < kPlanes; ++r) {
          const float normal = plane[r];
#pragma unroll
          for (int i = 0; i < kRows; ++i) sum[i][r] += (x[i][e] - centre) * normal;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    uint32_t code = 0;
#pragma unroll
    for (int r = 0; r < kPlanes; ++r) {
      sum[i][r] = warp_sum<kLanes>(sum[i][r]);
      code |= uint32_t(sum[i][r] > 0) << r;
    }
    const int64_t at = first + group + i * kGroups;
    if (lane != 0 || at >= count) continue;
    if constexpr (kSigns) {
      args.ids[out + at] = gray_rank(code);
    } else {
      args.scores[out + at] = sum[i][0];
    }
  }
}

template <int kPlanes, bool kSigns>
cudaError_t launch_thin(const ThinArgs& args, cudaStream_t stream) {
  dim3 grid;
  if (!one_dimensional_grid(args.heads * args.tiles, grid)) return cudaErrorInvalidConfiguration;
  const auto start = [&](auto* kernel) { return launch(kernel, grid, kThreads, 0, stream, args); };
  switch (args.rows.dtype) {
    case Dtype::kFloat32: return start(thin_product_kernel<float, kPlanes, kSigns>);
    case Dtype::kBFloat16: return start(thin_product_kernel<bf16, kPlanes, kSigns>);
    case Dtype::kFloat16: return start(thin_product_kernel<fp16, kPlanes, kSigns>);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace

LaunchStatus plane_signs(const ThinArgs& args, cudaStream_t stream) {
  return {args.bits <= 8 ? launch_thin<8, true>(args, stream) : launch_thin<16, true>(args, stream),
          "plane_signs"};
}

LaunchStatus key_scores(const ThinArgs& args, cudaStream_t stream) {
  return {launch_thin<1, false>(args, stream), "key_scores"};
}

}  // namespace thrifty::attention::cuda
