// Everything here is added by one thread or one warp in an order that the shapes fix: no atomics.
#include "moe/mlp_sums.cuh"

#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "core/scratch.h"

namespace thrifty::moe::cuda {
namespace {

constexpr int kThreads = 128;

template <class Body>
auto with_type(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kBFloat16: return body(bf16());
    case Dtype::kFloat16: return body(fp16());
    case Dtype::kFloat32: return body(float());
    default: return body(double());
  }
}

// A thread has kVector columns of a token. Rows are read whatever their order, so some at a time.
template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) moe_combine_kernel(const Combine args) {
  using A = Sum<T>;
  const int tiles = int(ceil_div(args.width, kThreads * kVector));
  const int64_t token = blockIdx.x / tiles;
  const int column = (int(blockIdx.x % tiles) * kThreads + int(threadIdx.x)) * kVector;
  const int rows = args.groups.last();
  if (column >= args.width) return;
  A sum[kVector] = {};
#pragma unroll 4
  for (int k = 0; k < args.top_k; ++k) {
    const int64_t slot = token * args.top_k + k;
    const int row = load_readonly(args.inverse + slot);
    if (row < rows) {
      const A w = args.weights.data == nullptr ? A(1) : args.weights.get<A>(slot);
      const auto y = load_vec_readonly<kVector>(static_cast<const T*>(args.y) +
                                                int64_t(row) * args.width + column);
#pragma unroll
      for (int e = 0; e < kVector; ++e) sum[e] += w * to_float(y[e]);
    }
  }
  Vec<T, kVector> out;
#pragma unroll
  for (int e = 0; e < kVector; ++e) out[e] = from_float<T>(sum[e]);
  store_vec(static_cast<T*>(args.out) + token * args.width + column, out);
}

__global__ void __launch_bounds__(kThreads) moe_tokens_kernel(const Tokens args) {
  const int64_t r = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (r < args.slots) args.token[r] = args.order[r] / args.top_k;
}

// A warp per sorted row.
template <class A>
__global__ void __launch_bounds__(kThreads) moe_weight_grads_kernel(const WeightGrads args) {
  const int64_t r = int64_t(blockIdx.x) * (kThreads / kWarpSize) + warp_index();
  if (r >= args.groups.rows) return;  // a whole warp; there is no barrier below
  const int slot = args.order[r], group = group_of_row(args.groups, int(r));
  A sum = 0;
  if (group < args.groups.count) {
    for (int t = lane_index(); t < args.tiles; t += kWarpSize) {
      sum += static_cast<const A*>(args.ds)[int64_t(t) * args.groups.rows + r];
    }
    for (int h = lane_index(); args.b2.data != nullptr && h < args.width; h += kWarpSize) {
      const int64_t at = int64_t(slot / args.top_k) * args.width + h;
      sum += load_element<A>(args.d_out, args.dtype, at) *
             args.b2.get<A>(int64_t(group) * args.width + h);
    }
  }
  sum = warp_sum(sum);
  if (lane_index() == 0) store_element(args.out, args.out_dtype, slot, sum);
}

// A block has 32 columns of one group; its warps take every fourth row.
template <class A>
__global__ void __launch_bounds__(kThreads) moe_group_sums_kernel(const GroupSums args) {
  constexpr int kWarps = kThreads / kWarpSize;
  THRIFTY_SHARED(A, shares, [kWarps][kWarpSize]);
  const int tiles = (args.width + kWarpSize - 1) / kWarpSize;
  const int group = int(blockIdx.x) / tiles;
  const int column = int(blockIdx.x) % tiles * kWarpSize + lane_index();
  const int end = args.groups.end(group);
  A sum = 0;
  for (int r = args.groups.begin(group) + warp_index(); r < end && column < args.width;
       r += kWarps) {
    const int64_t row = args.rows == nullptr ? r : args.rows[r];
    const A s = args.scale.data == nullptr ? A(1) : args.scale.get<A>(args.order[r]);
    sum += s * load_element<A>(args.x, args.dtype, row * args.width + column);
  }
  shares[warp_index()][lane_index()] = sum;
  syncthreads();
  if (warp_index() != 0 || column >= args.width) return;
  A total = 0;
  for (int w = 0; w < kWarps; ++w) total += shares[w][lane_index()];
  store_element(args.out, args.out_dtype, int64_t(group) * args.width + column, total);
}

bool grid_of(int64_t blocks, dim3& grid) {
  grid = dim3(unsigned(blocks));
  return blocks <= INT32_MAX;
}

}  // namespace

cudaError_t launch_combine(const Combine& args, cudaStream_t stream) {
  return with_type(args.dtype, [&]<class T>(T) {
    constexpr int kFull = 16 / int(sizeof(T));
    dim3 grid;
    if (!grid_of(args.tokens * ceil_div(args.width, kThreads * (args.vectors ? kFull : 1)), grid)) {
      return cudaErrorInvalidConfiguration;
    }
    return launch(args.vectors ? moe_combine_kernel<T, kFull> : moe_combine_kernel<T, 1>, grid,
                  kThreads, 0, stream, args);
  });
}

cudaError_t launch_tokens(const Tokens& args, cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div(args.slots, kThreads)));
  return launch(moe_tokens_kernel, grid, kThreads, 0, stream, args);
}

cudaError_t launch_weight_grads(const WeightGrads& args, cudaStream_t stream) {
  const dim3 grid(unsigned(ceil_div(args.groups.rows, kThreads / kWarpSize)));
  const auto kernel = args.dtype == Dtype::kFloat64 ? moe_weight_grads_kernel<double>
                                                    : moe_weight_grads_kernel<float>;
  return launch(kernel, grid, kThreads, 0, stream, args);
}

cudaError_t launch_group_sums(const GroupSums& args, cudaStream_t stream) {
  dim3 grid;
  if (!grid_of(args.groups.count * ceil_div(args.width, kWarpSize), grid)) {
    return cudaErrorInvalidConfiguration;
  }
  const auto kernel =
      args.dtype == Dtype::kFloat64 ? moe_group_sums_kernel<double> : moe_group_sums_kernel<float>;
  return launch(kernel, grid, kThreads, 0, stream, args);
}

}  // namespace thrifty::moe::cuda
