// Means of nodes' rows: sums of kChunk rows in float32, their total in float64. What is added in
// which order depends on the node alone.
#include "attention/directions_cuda.h"
#include "attention/row_pieces.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"
#include "core/scratch.h"

namespace thrifty::attention::cuda {
namespace {

constexpr int kThreads = 256;

THRIFTY_DEVICE int chunk_of(const MeanArgs& args, const PlanNode& node) {
  return args.part == kKeys ? node.key_chunk : node.probe_chunk;
}

// A thread has a piece of every so many rows.
template <class T>
__global__ void __launch_bounds__(kThreads) chunk_sums_kernel(const MeanArgs args) {
  constexpr int kWide = kPiece<T>;
  THRIFTY_SHARED(float, sums, [kThreads * kWide]);
  const int64_t head = blockIdx.x / args.chunks;
  const int chunk = int(blockIdx.x % args.chunks), d = args.rows.d;
  const PlanNode& node = find_node({args.nodes, args.node_count}, chunk,
                                   [&](const PlanNode& n) { return int64_t(chunk_of(args, n)); });
  const Span& span = node.part[args.part];
  const int first = (chunk - chunk_of(args, node)) * kChunk;
  const int last = span.count - first < kChunk ? span.count : first + kChunk;
  const int pieces = (d + kWide - 1) / kWide, side = kThreads / pieces;
  const int piece = int(threadIdx.x) % pieces, start = int(threadIdx.x) / pieces;
  const T* const rows = static_cast<const T*>(args.rows.data) +
                        head_at(args.rows, args.head + head) + span.begin * args.rows.row_stride;
  if (start < side) {
    float sum[kWide] = {};
#pragma unroll 4
    for (int i = first + start; i < last; i += side) {
      float x[kWide];
      load_piece<T>(rows + i * args.rows.row_stride, piece * kWide, d, args.rows.vector, x);
#pragma unroll
      for (int e = 0; e < kWide; ++e) sum[e] += x[e];
    }
#pragma unroll
    for (int e = 0; e < kWide; ++e) sums[(start * pieces + piece) * kWide + e] = sum[e];
  }
  syncthreads();
  const int c = int(threadIdx.x);  // d <= kThreads
  if (c >= d) return;              // no barrier follows
  float total = 0;
  for (int i = 0; i < side; ++i) total += sums[i * pieces * kWide + c];
  args.partial[(head * args.chunks + chunk) * d + c] = total;
}

__global__ void __launch_bounds__(kThreads) node_means_kernel(const MeanArgs args) {
  const int64_t set = blockIdx.x / args.node_count, index = blockIdx.x % args.node_count;
  const PlanNode& node = args.nodes[index];
  const int c = int(threadIdx.x), d = args.rows.d, count = node.part[args.part].count;
  if (c >= d) return;
  const int chunks = (count + kChunk - 1) / kChunk;
  float mean = 0;
  for (int g = 0; g < args.group; ++g) {
    const int64_t first = (set * args.group + g) * args.chunks + chunk_of(args, node);
    double total = 0;
    for (int i = 0; i < chunks; ++i) total += double(args.partial[(first + i) * d + c]);
    mean += float(total / (count > 0 ? count : 1));
  }
  args.mean[(set * args.node_count + index) * d + c] = mean;
}

}  // namespace

LaunchStatus node_means(const MeanArgs& args, cudaStream_t stream) {
  LaunchStatus status{cudaErrorInvalidConfiguration, "node_means"};
  dim3 chunks, nodes;
  if (!one_dimensional_grid(args.heads * args.chunks, chunks) ||
      !one_dimensional_grid(args.heads / args.group * args.node_count, nodes)) {
    return status;
  }
  const auto sum = [&](auto* kernel) { return launch(kernel, chunks, kThreads, 0, stream, args); };
  switch (args.rows.dtype) {
    case Dtype::kFloat32: status.error = sum(chunk_sums_kernel<float>); break;
    case Dtype::kBFloat16: status.error = sum(chunk_sums_kernel<bf16>); break;
    default: status.error = sum(chunk_sums_kernel<fp16>);
  }
  if (status.ok()) status.error = launch(node_means_kernel, nodes, kThreads, 0, stream, args);
  return status;
}

}  // namespace thrifty::attention::cuda
