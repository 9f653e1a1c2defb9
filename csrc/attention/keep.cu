#include "attention/keep_cuda.h"
#include "attention/plan_nodes.cuh"
#include "core/bucket_sort.cuh"
#include "core/cuda/atomic.cuh"
#include "core/cuda/launch.h"
#include "core/philox.h"
#include "core/product.cuh"
#include "core/scratch.h"

namespace thrifty::attention::cuda {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr uint32_t kResidualStream = 2u << 28;
static_assert(kThreads == 256, "a thread for each value of a byte");

// Larger for greater scores; both zeros are one, NaN is -inf.
THRIFTY_DEVICE uint32_t score_key(float score) {
  const uint32_t bits = float_as_bits((score == score ? score : -INFINITY) + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

struct Selection {
  uint32_t key;  // of the last one that is kept
  int equals;    // how many with this key are kept, the first ones
};

// Byte by byte from the highest: how many of those that share the bytes so far have which next one.
THRIFTY_DEVICE Selection select_greatest(const float* scores, int n, int keep, int32_t* counts,
                                         int32_t* sums, int32_t* found) {
  uint32_t key = 0;
  int left = keep;
  for (int shift = 24; shift >= 0; shift -= 8) {
    counts[threadIdx.x] = 0;
    syncthreads();
    for (int64_t base = 0; base < n; base += kThreads) {
      const int64_t i = base + threadIdx.x;
      const uint32_t mine = i < n ? score_key(scores[i]) : 0;
      const bool shares = i < n && (shift == 24 || (mine ^ key) >> (shift + 8) == 0);
      const int byte = shares ? int(mine >> shift & 255) : -1;
      const uint32_t lanes = warp_match(byte);
      if (shares && lane_index() + 1 == find_first_set(lanes)) {
        atomic_add(&counts[byte], popcount(lanes));
      }
    }
    syncthreads();
    const int byte = 255 - int(threadIdx.x), count = counts[byte];
    int total;
    const int above = scan_block<kWarps>(count, sums, total);
    if (above < left && above + count >= left) found[0] = byte, found[1] = left - above;
    syncthreads();
    key |= uint32_t(found[0]) << shift, left = found[1];
    syncthreads();
  }
  return {key, left};
}

__global__ void __launch_bounds__(kThreads) keep_kernel(const KeepArgs args) {
  THRIFTY_SHARED(int32_t, counts, [256]);
  THRIFTY_SHARED(int32_t, sums, [kWarps]);
  THRIFTY_SHARED(int32_t, found, [2]);
  const int64_t head = blockIdx.x / args.node_count;
  const PlanNode& node = args.nodes[blockIdx.x % args.node_count];
  const Span& span = node.part[kKeys];
  const int n = span.count;
  const int keep = args.keep < n ? int(args.keep) : n;
  const float* const scores = args.scores + head * args.stride + span.at;
  int32_t* const ids = args.ids + head * args.stride + span.at;
  if (keep == n || node.part[kProbes].count == 0) {
    for (int i = int(threadIdx.x); i < keep; i += kThreads) ids[i] = args.mark;
    return;  // all threads
  }
  const Selection last = select_greatest(scores, n, keep, counts, sums, found);
  int equals = 0;
  for (int64_t base = 0; base < n; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const uint32_t key = i < n ? score_key(scores[i]) : 0;
    if (i < n && key > last.key) ids[i] = args.mark;
    if (equals >= last.equals) continue;  // all threads
    const bool equal = i < n && key == last.key;
    int total;
    const int before = equals + scan_block<kWarps>(int(equal), sums, total);
    if (equal && before < last.equals) ids[i] = args.mark;
    equals += total;
    syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads) residual_kernel(const ResidualArgs args) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.heads * args.node_count * args.count) return;
  const PlanNode& node = args.nodes[i / args.count % args.node_count];
  const uint64_t seed = args.seed.device ? uint64_t(args.seed.device[0]) : args.seed.seed;
  const uint64_t offset = args.seed.device ? uint64_t(args.seed.device[1]) : args.seed.offset;
  const uint64_t word =
      philox(seed, {{uint32_t(i % args.count) + kResidualStream, uint32_t(node.number),
                     uint32_t(offset), uint32_t(offset >> 32)}})
          .word[0];
  args.samples[i] = int32_t(word * uint64_t(node.part[kKeys].count) >> 32);
}

}  // namespace

LaunchStatus keep_keys(const KeepArgs& args, cudaStream_t stream) {
  LaunchStatus status{cudaErrorInvalidConfiguration, "keep_keys"};
  dim3 grid;
  if (!one_dimensional_grid(args.heads * args.node_count, grid)) return status;
  status.error = launch(keep_kernel, grid, kThreads, 0, stream, args);
  return status;
}

LaunchStatus draw_residual(const ResidualArgs& args, cudaStream_t stream) {
  LaunchStatus status{cudaErrorInvalidConfiguration, "draw_residual"};
  dim3 grid;
  const int64_t all = args.heads * args.node_count * args.count;
  if (!one_dimensional_grid(ceil_div(all, kThreads), grid)) return status;
  status.error = launch(residual_kernel, grid, kThreads, 0, stream, args);
  return status;
}

}  // namespace thrifty::attention::cuda
