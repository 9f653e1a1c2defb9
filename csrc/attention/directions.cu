// Kernels of directions_cuda.h, a warp for each direction.
#include "attention/direction_row.cuh"
#include "core/philox.h"
#include "core/product.cuh"
#include "core/scratch.h"

namespace thrifty::attention::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
constexpr uint32_t kCentroidStream = 1u << 28;

// The warp's head and centroid of it; both in 32 bits, as launch_warps sees to.
struct Task {
  int64_t head, number;
  bool inside;

  THRIFTY_DEVICE Task(int64_t heads, int64_t count) {
    const uint32_t at = blockIdx.x * kWarps + uint32_t(warp_index());
    head = at / uint32_t(count), number = at % uint32_t(count), inside = head < heads;
  }
};

THRIFTY_DEVICE const PlanNode& node_of(const PlanNode* nodes, int count, int64_t number) {
  return find_node({nodes, count}, number, [](const PlanNode& n) { return int64_t(n.centroid); });
}

THRIFTY_DEVICE const float* mean_of(const CentroidArgs& args, int64_t head, const PlanNode& node) {
  if (args.mean == nullptr) return nullptr;
  return args.mean + (head * args.node_count + (&node - args.nodes)) * args.rows.d;
}

__global__ void __launch_bounds__(kThreads, 1) draw_centroids_kernel(const CentroidArgs args) {
  const Task task(args.heads, args.directions.count);
  if (!task.inside) return;  // a whole warp, and there is no barrier
  const PlanNode& node = node_of(args.nodes, args.node_count, task.number);
  const auto c = uint32_t(task.number - node.centroid), count = uint32_t(node.buckets);
  const auto keys = uint32_t(node.part[kKeys].count);
  // c keys / count without a division of 64 bits: c and the remainder are below 2^16.
  const auto bound = [&](uint32_t c) { return c * (keys / count) + c * (keys % count) / count; };
  const uint32_t low = bound(c), high = bound(c + 1);
  const PlanSeed& from = args.seed;
  const uint64_t seed = from.device == nullptr ? from.seed : uint64_t(from.device[0]);
  const uint64_t offset = from.device == nullptr ? from.offset : uint64_t(from.device[1]);
  const uint64_t word = philox(seed, {{c + kCentroidStream, uint32_t(node.number), uint32_t(offset),
                                       uint32_t(offset >> 32)}})
                            .word[0];
  const int64_t drawn = low + int64_t(word * uint64_t(high - low) >> 32);
  const int64_t at = head_at(args.rows, args.head + task.head) +
                     (node.part[kKeys].begin + drawn) * args.rows.row_stride;
  const float* const mean = mean_of(args, task.head, node);
  WarpRow row;
  row.load_centred(args.rows, at, mean);
  row.make_unit();
  store_row(args.directions, args.rows.dtype, task.head, task.number, row, mean, args.rows.d);
}

// A centroid becomes the unit vector of its members' sum; one without a sum stays.
__global__ void __launch_bounds__(kThreads) move_centroids_kernel(const CentroidArgs args) {
  const Task task(args.heads, args.directions.count);
  if (!task.inside) return;
  const PlanNode& node = node_of(args.nodes, args.node_count, task.number);
  const int64_t index = &node - args.nodes;
  const int32_t* const offsets = args.offsets + (task.head * args.node_count + index) * args.width +
                                 (task.number - node.centroid);
  const int32_t* const order = args.order + task.head * args.samples + node.part[kSample].at;
  const float* const mean = mean_of(args, task.head, node);
  const int64_t head = head_at(args.rows, args.head + task.head);
  WarpRow sum;
  const int last = offsets[1];
#pragma unroll 2
  for (int i = offsets[0]; i < last; ++i) {
    WarpRow row;
    row.load_centred(args.rows, head + row_of(node, kSample, order[i]) * args.rows.row_stride,
                     mean);
    row.make_unit();
#pragma unroll
    for (int e = 0; e < kColumnsPerLane; ++e) sum.value[e] += row.value[e];
  }
  sum.make_unit();
  if (!sum.any()) return;  // all lanes
  store_row(args.directions, args.rows.dtype, task.head, task.number, sum, mean, args.rows.d);
}

// One warp a node: the next of the chain is known only when the last one is.
__global__ void __launch_bounds__(kWarpSize) chain_kernel(const ChainArgs args) {
  const int64_t head = blockIdx.x / args.node_count;
  const PlanNode& node = args.nodes[blockIdx.x % args.node_count];
  const float* const gram = args.gram + head * args.stride + node.gram;
  int32_t* const order = args.order + head * args.from.count + node.centroid;
  int32_t* const visited = args.visited + head * args.from.count + node.centroid;
  for (int c = lane_index(); c < node.buckets; c += kWarpSize) visited[c] = 0;  // the lane's own
  int last = 0;
  for (int i = 0; i < node.buckets; ++i) {
    if (lane_index() == 0) order[i] = last;
    if (lane_index() == last % kWarpSize) visited[last] = 1;
    float score = -INFINITY;
    int id = 0;
#pragma unroll 8
    for (int c = lane_index(); c < node.buckets; c += kWarpSize) {
      const float similar = gram[int64_t(last) * node.buckets + c];
      if (similar > score && visited[c] == 0) score = similar, id = c;
    }
#pragma unroll
    for (int bits = kWarpSize / 2; bits > 0; bits /= 2) {
      const float other = shfl_xor(score, bits);
      const int column = shfl_xor(id, bits);
      if (other > score || (other == score && column < id)) score = other, id = column;
    }
    last = id;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) reorder_kernel(const ChainArgs args) {
  const Task task(args.heads, args.from.count);
  if (!task.inside) return;
  const PlanNode& node = node_of(args.nodes, args.node_count, task.number);
  const int64_t source = node.centroid + args.order[task.head * args.from.count + task.number];
  const int width = args.from.width;
  int64_t first = task.head * args.from.split * args.from.count * width;
  for (int part = 0; part < args.from.split; ++part, first += args.from.count * width) {
    const T* const from = static_cast<const T*>(args.from.parts) + first + source * width;
    T* const to = static_cast<T*>(args.to.parts) + first + task.number * width;
#pragma unroll 1
    for (int c = lane_index(); c < width; c += kWarpSize) to[c] = from[c];
  }
  if (lane_index() == 0) {
    const int64_t at = task.head * args.from.count;
    args.to.bias[at + task.number] = args.from.bias[at + source];
  }
}

// Directions of any length; each head of a group makes the bias of its own mean.
__global__ void __launch_bounds__(kThreads) given_directions_kernel(const GivenDirections args) {
  const Task task(args.heads, args.to.count);
  if (!task.inside) return;
  const int64_t set = task.head / args.group;
  const int64_t from = (set * args.to.count + task.number) * args.d;
  float bias = 0;
  for (int c = lane_index(); c < args.to.width; c += kWarpSize) {
    const float value =
        c < args.d ? load_element<float>(args.directions, args.dtype, from + c) : 0.0f;
    if (task.head % args.group == 0) {
      store_direction(args.to, args.dtype, set, task.number, c, value);
    }
    if (args.mean != nullptr && c < args.d) {
      bias += value * load_element<float>(args.mean, args.dtype, task.head * args.d + c);
    }
  }
  bias = warp_sum(bias);
  if (lane_index() == 0) args.to.bias[task.head * args.to.count + task.number] = bias;
}

template <class Args>
cudaError_t launch_warps(void (*kernel)(Args), int64_t warps, const Args& args,
                         cudaStream_t stream) {
  dim3 grid;
  if (warps > INT32_MAX || !one_dimensional_grid(ceil_div(warps, kWarps), grid)) {
    return cudaErrorInvalidConfiguration;
  }
  return launch(kernel, grid, kThreads, 0, stream, args);
}

}  // namespace

LaunchStatus draw_centroids(const CentroidArgs& args, cudaStream_t stream) {
  return {launch_warps(draw_centroids_kernel, args.heads * args.directions.count, args, stream),
          "draw_centroids"};
}

LaunchStatus move_centroids(const CentroidArgs& args, cudaStream_t stream) {
  return {launch_warps(move_centroids_kernel, args.heads * args.directions.count, args, stream),
          "move_centroids"};
}

LaunchStatus chain_centroids(const ChainArgs& args, cudaStream_t stream) {
  LaunchStatus status{cudaErrorInvalidConfiguration, "chain_centroids"};
  dim3 grid;
  if (!one_dimensional_grid(args.heads * args.node_count, grid)) return status;
  status.error = launch(chain_kernel, grid, kWarpSize, 0, stream, args);
  if (!status.ok()) return status;
  const int64_t warps = args.heads * args.from.count;
  status.error = args.dtype == Dtype::kFloat32
                     ? launch_warps(reorder_kernel<uint32_t>, warps, args, stream)
                     : launch_warps(reorder_kernel<uint16_t>, warps, args, stream);
  return status;
}

LaunchStatus given_directions(const GivenDirections& args, cudaStream_t stream) {
  return {launch_warps(given_directions_kernel, args.heads * args.to.count, args, stream),
          "given_directions"};
}

}  // namespace thrifty::attention::cuda
