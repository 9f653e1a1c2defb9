// Kernels of directions_cuda.h, a warp for each direction.
#include "attention/direction_row.cuh"
#include "core/cuda/block.cuh"
#include "core/philox.h"
#include "core/product.cuh"
#include "core/scratch.h"

namespace thrifty::attention::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
constexpr int kSpreadThreads = 512;
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

THRIFTY_DEVICE float* candidates_of(const CentroidArgs& args, int64_t head, const PlanNode& node) {
  return args.candidates + (head * args.candidate_count + node.candidate) * args.rows.d;
}

// One key of each stretch, as a unit vector.
__global__ void __launch_bounds__(kThreads, 1) draw_candidates_kernel(const CentroidArgs args) {
  const Task task(args.heads, args.candidate_count);
  if (!task.inside) return;  // a whole warp, and there is no barrier
  const PlanNode& node = find_node({args.nodes, args.node_count}, task.number,
                                   [](const PlanNode& n) { return int64_t(n.candidate); });
  const int64_t t = task.number - node.candidate, keys = node.part[kKeys].count;
  const int64_t low = t * keys / node.candidates, high = (t + 1) * keys / node.candidates;
  const PlanSeed& from = args.seed;
  const uint64_t seed = from.device == nullptr ? from.seed : uint64_t(from.device[0]);
  const uint64_t offset = from.device == nullptr ? from.offset : uint64_t(from.device[1]);
  const uint64_t word = philox(seed, {{uint32_t(t) + kCentroidStream, uint32_t(node.number),
                                       uint32_t(offset), uint32_t(offset >> 32)}})
                            .word[0];
  const int64_t drawn = low + int64_t(word * uint64_t(high - low) >> 32);
  const int64_t at = head_at(args.rows, args.head + task.head) +
                     (node.part[kKeys].begin + drawn) * args.rows.row_stride;
  WarpRow row;
  row.load_centred(args.rows, at, mean_of(args, task.head, node));
  row.make_unit();
  float* const to = candidates_of(args, task.head, node);
#pragma unroll
  for (int i = 0; i < kColumnsPerLane; ++i) {
    const int c = WarpRow::column(i);
    if (c < args.rows.d) to[c * int64_t(node.candidates) + t] = row.value[i];
  }
}

struct Farthest {
  float nearness = INFINITY;
  int id = 0;

  THRIFTY_DEVICE void meet(float other, int number) {
    if (other < nearness || (other == nearness && number < id)) nearness = other, id = number;
  }
};

// A block a node: the next centroid is known only when the last one is. Each product is summed in
// the order of its columns, as on the CPU.
__global__ void __launch_bounds__(kSpreadThreads) spread_kernel(const CentroidArgs args) {
  THRIFTY_SHARED(float, row, [kColumnsPerLane * kWarpSize]);
  THRIFTY_SHARED(Farthest, warps, [kSpreadThreads / kWarpSize]);
  const int64_t head = blockIdx.x / args.node_count;
  const PlanNode& node = args.nodes[blockIdx.x % args.node_count];
  const int count = node.candidates, d = args.rows.d, thread = int(threadIdx.x);
  const float* const columns = candidates_of(args, head, node);
  float* const nearness = args.nearness + head * args.candidate_count + node.candidate;
  int32_t* const chosen = args.chosen + head * args.directions.count + node.centroid;
  int last = 0;
  for (int i = 0; i < node.buckets; ++i) {
    for (int c = thread; c < d; c += kSpreadThreads) row[c] = columns[c * int64_t(count) + last];
    syncthreads();
    Farthest best;
    for (int t = thread; t < count; t += kSpreadThreads) {
      float product = 0;
#pragma unroll 8
      for (int c = 0; c < d; ++c) product = fmaf(row[c], columns[c * int64_t(count) + t], product);
      const float before = i == 0 ? -INFINITY : nearness[t];
      float near = product > before ? product : before;
      if (t == last) near = INFINITY;  // taken
      nearness[t] = near;
      best.meet(near, t);
    }
#pragma unroll
    for (int bits = kWarpSize / 2; bits > 0; bits /= 2) {
      best.meet(shfl_xor(best.nearness, bits), shfl_xor(best.id, bits));
    }
    if (lane_index() == 0) warps[thread / kWarpSize] = best;
    if (thread == 0) chosen[i] = last;
    syncthreads();  // also: all have read `row`
    for (int w = 0; w < kSpreadThreads / kWarpSize; ++w) best.meet(warps[w].nearness, warps[w].id);
    last = best.id;
  }
}

__global__ void __launch_bounds__(kThreads) take_centroids_kernel(const CentroidArgs args) {
  const Task task(args.heads, args.directions.count);
  if (!task.inside) return;
  const PlanNode& node = node_of(args.nodes, args.node_count, task.number);
  const float* const from = candidates_of(args, task.head, node) +
                            args.chosen[task.head * args.directions.count + task.number];
  WarpRow row;
#pragma unroll
  for (int i = 0; i < kColumnsPerLane; ++i) {
    const int c = WarpRow::column(i);
    if (c < args.rows.d) row.value[i] = from[c * int64_t(node.candidates)];
  }
  store_row(args.directions, args.rows.dtype, task.head, task.number, row,
            mean_of(args, task.head, node), args.rows.d);
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

LaunchStatus spread_centroids(const CentroidArgs& args, cudaStream_t stream) {
  LaunchStatus status{cudaErrorInvalidConfiguration, "spread_centroids"};
  dim3 grid;
  if (!one_dimensional_grid(args.heads * args.node_count, grid)) return status;
  status.error =
      launch_warps(draw_candidates_kernel, args.heads * args.candidate_count, args, stream);
  if (status.ok()) status.error = launch(spread_kernel, grid, kSpreadThreads, 0, stream, args);
  if (!status.ok()) return status;
  status.error =
      launch_warps(take_centroids_kernel, args.heads * args.directions.count, args, stream);
  return status;
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
