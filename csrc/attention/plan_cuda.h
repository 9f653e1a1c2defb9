// hyper_plan and the bucket ops on CUDA: the same arguments as on the CPU (plan.h, bucket.h),
// pointers on the device. Nothing synchronises, allocates or reads the device from the host.
#pragma once

#include "attention/directions_cuda.h"
#include "attention/plan.h"

namespace thrifty::attention::cuda {

// Rows are float32, bfloat16 or float16.
int64_t hyper_plan_scratch(const Problem& problem, const Layout& layout, const PlanArgs& args);
// args.planes, seed.device: device memory, the latter beside args.seed and offset.
LaunchStatus hyper_plan(const Problem& problem, const Layout& layout, const PlanArgs& args,
                        const PlanSeed& seed, const PlanOutputs& outputs, void* scratch,
                        cudaStream_t stream);

// Dense x [slices, n, d], planes [d, bits], mean [slices, d] in x's format or null.
struct LshBucket {
  Dtype dtype;
  void* x;
  const float* planes;
  const void* mean;
  int64_t slices, n, d, bits;
};
LaunchStatus lsh_bucket(const LshBucket& call, int32_t* ids, cudaStream_t stream);

// Dense x [heads, n, d], centroids [heads / group, count, d], mean [heads, d] or null.
struct CentroidBucket {
  Dtype dtype;
  void* x;
  const void *centroids, *mean;
  int64_t heads, n, d, count, group;
};
int64_t centroid_bucket_scratch(const CentroidBucket& call);
LaunchStatus centroid_bucket(const CentroidBucket& call, int32_t* ids, void* scratch,
                             cudaStream_t stream);

}  // namespace thrifty::attention::cuda
