#include "attention/node_sort_cuda.h"

#include "attention/plan_nodes.cuh"
#include "core/bucket_sort.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"
#include "core/scratch.h"

namespace thrifty::attention::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;

// One node's rows as a sort of its own.
THRIFTY_DEVICE BucketSort sort_of(const NodeSort& all, int64_t head, const PlanNode& node) {
  const Span& span = node.part[all.part];
  BucketSort sort;
  sort.ids = all.ids + head * all.ids_stride + (all.by_row ? span.begin : span.at);
  sort.n = span.count, sort.buckets = all.buckets;
  sort.order = all.order + head * all.stride + span.at;
  return sort;
}

template <bool kPlaces>
__global__ void __launch_bounds__(kThreads) node_walk_kernel(const NodeSort all) {
  const uint32_t at = blockIdx.x * kWarps + uint32_t(warp_index()),
                 per_head = uint32_t(all.walkers);
  if (at >= all.heads * per_head) return;  // a whole warp; there is no barrier below
  const int64_t head = at / per_head, walker = at % per_head;
  const PlanNode& node = find_node({all.nodes, all.node_count}, walker, [&](const PlanNode& n) {
    return int64_t(n.part[all.part].walker);
  });
  const Span& span = node.part[all.part];
  const BucketSort sort = sort_of(all, head, node);
  const int64_t segment = walker_rows(span.count, all.buckets + 1);
  const int64_t first = (walker - span.walker) * segment;
  const int64_t last = first + segment < span.count ? first + segment : span.count;
  int32_t* const counts = all.counts + int64_t(at) * (all.buckets + 1);
  if constexpr (!kPlaces) {
    count_segment(sort, 0, first, last, counts);
  } else if (all.window == 0) {
    place_segment(sort, 0, first, last, counts);
  } else {
    const int64_t blocks = ceil_div(node.part[kKeys].count, all.window);
    place_segment(sort, 0, first, last, counts, [&](int rank, int32_t i) {
      // The last block whose first rank, block * count / blocks, is at most this one.
      sort.order[i] = int32_t(((rank + 1) * blocks - 1) / span.count);
    });
  }
}

__global__ void __launch_bounds__(kThreads) node_scan_kernel(const NodeSort all) {
  THRIFTY_SHARED(int32_t, sums, [kWarps]);
  const int64_t head = blockIdx.x / all.node_count, index = blockIdx.x % all.node_count;
  const Span& span = all.nodes[index].part[all.part];
  const int64_t width = all.buckets + 1;
  scan_counts<kWarps>(all.buckets, int(ceil_div(span.count, walker_rows(span.count, width))),
                      all.counts + (head * all.walkers + span.walker) * width,
                      all.offsets + (head * all.node_count + index) * width, sums);
}

}  // namespace

LaunchStatus node_sort(const NodeSort& sort, cudaStream_t stream) {
  LaunchStatus status{cudaErrorInvalidConfiguration, "node_sort"};
  dim3 walkers, nodes;
  if (sort.heads * sort.walkers > INT32_MAX ||
      !one_dimensional_grid(ceil_div(sort.heads * sort.walkers, kWarps), walkers) ||
      !one_dimensional_grid(sort.heads * sort.node_count, nodes)) {
    return status;
  }
  status.error = launch(node_walk_kernel<false>, walkers, kThreads, 0, stream, sort);
  if (status.ok()) status.error = launch(node_scan_kernel, nodes, kThreads, 0, stream, sort);
  if (status.ok()) {
    status.error = launch(node_walk_kernel<true>, walkers, kThreads, 0, stream, sort);
  }
  return status;
}

}  // namespace thrifty::attention::cuda
