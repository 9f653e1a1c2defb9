// moe_route on CUDA: a warp per token, four to a block (route_token.cuh). With statistics a block
// takes 64 tokens, sums over them in order, and a second kernel adds the blocks in order.
#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "core/error.h"
#include "core/scratch.h"
#include "moe/route_cuda.h"
#include "moe/route_token.cuh"

namespace thrifty::moe::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarpSize;
constexpr int kStatTokens = 16;  // of a warp

// Partial sums [blocks, E] of the statistics; null: not wanted.
struct Stats {
  double* sum = nullptr;
  int32_t* count = nullptr;
};

THRIFTY_DEVICE int64_t first_token(int per_warp) {
  return (int64_t(blockIdx.x) * kWarps + warp_index()) * per_warp;
}

// A block's sums: [warp][E], each warp adding its own tokens in order.
struct BlockStats {
  double* sum;
  int32_t* count;
  int experts;

  THRIFTY_DEVICE BlockStats(unsigned char* shared, int experts)
      : sum(reinterpret_cast<double*>(shared)),
        count(reinterpret_cast<int32_t*>(sum + kWarps * experts)),
        experts(experts) {
    for (int i = lane_index(); i < experts; i += kWarpSize) {
      sum[warp_index() * experts + i] = 0;
      count[warp_index() * experts + i] = 0;
    }
    syncwarp();
  }
  static size_t bytes(int experts) { return size_t(kWarps) * size_t(experts) * 12; }

  // A token's chosen experts whose softmax among the chosen is large enough.
  template <class W>
  THRIFTY_DEVICE void observe(TokenRouter<W>& router) {
    const int n = router.count();
    router.compare_chosen(n);
    for (int k = lane_index(); k < n; k += kWarpSize) {
      if (!(router.chosen[k] >= W(router.shape.threshold))) continue;
      const int at = warp_index() * experts + router.ids[k];
      sum[at] += double(router.logit(router.ids[k]));
      ++count[at];
    }
    syncwarp();
  }

  THRIFTY_DEVICE void store(const Stats& stats) const {
    syncthreads();
    for (int e = int(threadIdx.x); e < experts; e += kThreads) {
      double total = 0;
      int number = 0;
      for (int w = 0; w < kWarps; ++w) {
        total += sum[w * experts + e];
        number += count[w * experts + e];
      }
      stats.sum[int64_t(blockIdx.x) * experts + e] = total;
      stats.count[int64_t(blockIdx.x) * experts + e] = number;
    }
  }
};

template <class W>
THRIFTY_DEVICE size_t router_bytes(const RouteShape& shape) {
  return TokenRouter<W>::shared_bytes(shape.experts, shape.top_k, shape.n_group);
}

template <class W>
__global__ void __launch_bounds__(kThreads, 1)  // for occupancy, ptxas would rather spill
    moe_route_kernel(RouteShape shape, W* weights, int32_t* ids, int per_warp, Stats stats) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  const size_t bytes = router_bytes<W>(shape);
  TokenRouter<W> router(shape, shared + size_t(warp_index()) * bytes);
  const bool observes = stats.sum != nullptr;
  BlockStats sums(shared + kWarps * bytes, observes ? shape.experts : 0);
  const int64_t first = first_token(per_warp);
  for (int64_t token = first; token < first + per_warp && token < shape.tokens; ++token) {
    router.load(token);
    router.choose();
    router.weigh();
    for (int k = lane_index(); k < shape.top_k; k += kWarpSize) {
      weights[token * shape.top_k + k] = router.chosen[k];
      ids[token * shape.top_k + k] = router.ids[k];
    }
    if (observes) sums.observe(router);
  }
  if (observes) sums.store(stats);
}

template <class W>
__global__ void __launch_bounds__(kThreads)
    moe_route_stats_kernel(Stats stats, int blocks, int experts, W* score_sum, int32_t* count) {
  const int e = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (e >= experts) return;
  double sum = 0;
  int number = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    sum += stats.sum[b * experts + e];
    number += stats.count[b * experts + e];
  }
  score_sum[e] = W(sum);
  count[e] = number;
}

template <class W>
__global__ void __launch_bounds__(kThreads)
    moe_route_bwd_kernel(RouteShape shape, const W* grad, const int32_t* ids, void* dlogits) {
  THRIFTY_DYNAMIC_SHARED(unsigned char, shared);
  TokenRouter<W> router(shape, shared + size_t(warp_index()) * router_bytes<W>(shape));
  const int64_t token = first_token(1);
  if (token >= shape.tokens) return;  // a whole warp; there is no barrier below
  for (int k = lane_index(); k < shape.top_k; k += kWarpSize) {
    const int id = ids[token * shape.top_k + k];
    router.ids[k] = id >= 0 && id < shape.experts ? id : -1;
  }
  router.load(token);
  router.backward(grad + token * shape.top_k);
  for (int e = lane_index(); e < shape.experts; e += kWarpSize) {
    store_element(dlogits, shape.dtype, token * shape.experts + e, router.candidate[e]);
  }
}

RouteShape shape_of(const Route& route) {
  return {.logits = route.logits.data,
          .dtype = route.logits.dtype,
          .bias = route.bias ? route.bias.data : nullptr,
          .mask = static_cast<const uint8_t*>(route.mask ? route.mask.data : nullptr),
          .tokens = route.tokens,
          .experts = int(route.experts),
          .top_k = int(route.top_k),
          .score = route.score,
          .renorm = route.renorm,
          .scale = route.scale,
          .n_group = int(route.n_group),
          .topk_group = int(route.topk_group),
          .group_topn = int(route.group_topn),
          .threshold = route.threshold};
}

int64_t stat_blocks(const Route& route) { return ceil_div(route.tokens, kWarps * kStatTokens); }

template <class W>
Status forward(const Route& route, W* weights, int32_t* ids, W* score_sum, int32_t* count,
               void* scratch, cudaStream_t stream) {
  const RouteShape shape = shape_of(route);
  const bool observes = score_sum != nullptr;
  const int64_t partial = stat_blocks(route) * route.experts;
  Stats stats;
  if (observes && partial > 0) {
    stats.sum = static_cast<double*>(scratch);
    stats.count = reinterpret_cast<int32_t*>(stats.sum + partial);
  }
  const int per_warp = observes ? kStatTokens : 1;
  const int64_t blocks = ceil_div(route.tokens, kWarps * per_warp);
  const size_t bytes =
      kWarps * TokenRouter<W>::shared_bytes(shape.experts, shape.top_k, shape.n_group) +
      (observes ? BlockStats::bytes(shape.experts) : 0);
  if (blocks > INT32_MAX) return {cudaErrorInvalidConfiguration, "moe_route"};
  Status status{launch(moe_route_kernel<W>, dim3(unsigned(blocks)), kThreads, bytes, stream, shape,
                       weights, ids, per_warp, stats),
                "moe_route"};
  if (!observes || !status.ok()) return status;
  const dim3 grid(unsigned(ceil_div(route.experts, kThreads)));
  return {launch(moe_route_stats_kernel<W>, grid, kThreads, 0, stream, stats,
                 int(stat_blocks(route)), shape.experts, score_sum, count),
          "moe_route_stats"};
}

template <class W>
Status backward(const Route& route, const W* grad, const int32_t* ids, void* dlogits,
                cudaStream_t stream) {
  const RouteShape shape = shape_of(route);
  const int64_t blocks = ceil_div(route.tokens, kWarps);
  const size_t bytes =
      kWarps * TokenRouter<W>::shared_bytes(shape.experts, shape.top_k, shape.n_group);
  if (blocks > INT32_MAX) return {cudaErrorInvalidConfiguration, "moe_route_bwd"};
  return {launch(moe_route_bwd_kernel<W>, dim3(unsigned(blocks)), kThreads, bytes, stream, shape,
                 grad, ids, dlogits),
          "moe_route_bwd"};
}

}  // namespace

void check_route(const Route& route) {
  THRIFTY_CHECK(route.experts <= kMaxRouted, "moe_route: logits: expected at most ", kMaxRouted,
                " experts on CUDA, got ", route.experts);
}

int64_t moe_route_scratch(const Route& route, bool stats) {
  return stats ? stat_blocks(route) * route.experts * 12 : 0;
}

Status moe_route_fwd(const Route& route, void* weights, int32_t* ids, void* score_sum,
                     int32_t* count, void* scratch, cudaStream_t stream) {
  if (route.wide() == Dtype::kFloat64) {
    return forward(route, static_cast<double*>(weights), ids, static_cast<double*>(score_sum),
                   count, scratch, stream);
  }
  return forward(route, static_cast<float*>(weights), ids, static_cast<float*>(score_sum), count,
                 scratch, stream);
}

Status moe_route_bwd(const Route& route, const void* grad, const int32_t* ids, void* dlogits,
                     cudaStream_t stream) {
  if (route.wide() == Dtype::kFloat64) {
    return backward(route, static_cast<const double*>(grad), ids, dlogits, stream);
  }
  return backward(route, static_cast<const float*>(grad), ids, dlogits, stream);
}

}  // namespace thrifty::moe::cuda
