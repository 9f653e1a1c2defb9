// The bucket ops on CUDA (plan_cuda.h).
#include "attention/plan_cuda.h"
#include "attention/thin_product_cuda.h"
#include "core/scratch_arena.h"
#include "core/upload_cuda.h"

namespace thrifty::attention::cuda {
namespace {

struct CentroidScratch {
  PlanNode* node;
  DirectionArrays directions;
  int64_t bytes;

  CentroidScratch(const CentroidBucket& call, void* scratch)
      : directions(DirectionArrays::of(call.dtype, call.d)) {
    ScratchArena arena(scratch);
    const int64_t sets = call.heads / call.group, size = dtype_size(call.dtype);
    node = static_cast<PlanNode*>(arena.take(sizeof(PlanNode)));
    directions.count = call.count;
    directions.parts = arena.take(sets * directions.split * call.count * directions.width * size);
    directions.bias = static_cast<float*>(arena.take(call.heads * call.count * 4));
    bytes = arena.used();
  }
};

}  // namespace

LaunchStatus lsh_bucket(const LshBucket& call, int32_t* ids, cudaStream_t stream) {
  ThinArgs args;
  args.rows = head_rows(call.dtype, {static_cast<std::byte*>(call.x), 0, call.n * call.d, call.d},
                        call.slices, call.d);
  args.heads = call.slices, args.n = args.stride = call.n;
  args.tiles = int(ceil_div(call.n, kTile));
  args.mean = call.mean, args.mean_dtype = call.dtype;
  args.planes = call.planes, args.bits = int(call.bits), args.ids = ids;
  return plane_signs(args, stream);
}

int64_t centroid_bucket_scratch(const CentroidBucket& call) {
  return CentroidScratch(call, nullptr).bytes;
}

LaunchStatus centroid_bucket(const CentroidBucket& call, int32_t* ids, void* scratch,
                             cudaStream_t stream) {
  const CentroidScratch memory(call, scratch);
  PlanNode node{};
  node.part[kKeys].count = int32_t(call.n), node.buckets = int32_t(call.count);
  LaunchStatus status = thrifty::cuda::upload(&node, sizeof(node), memory.node, stream);
  const GivenDirections given{call.centroids,  call.mean,   call.dtype,       call.heads,
                              int(call.group), int(call.d), memory.directions};
  if (status.ok()) status = given_directions(given, stream);
  if (!status.ok()) return status;
  NearestArgs args;
  args.nodes = memory.node, args.node_count = 1;
  args.rows = head_rows(call.dtype, {static_cast<std::byte*>(call.x), 0, call.n * call.d, call.d},
                        call.heads, call.d);
  args.heads = call.heads, args.group = int(call.group), args.directions = memory.directions;
  args.bias = call.mean == nullptr ? nullptr : memory.directions.bias;
  args.ids = ids, args.stride = call.n, args.tiles = int(ceil_div(call.n, kTile));
  return nearest(args, stream);
}

}  // namespace thrifty::attention::cuda
