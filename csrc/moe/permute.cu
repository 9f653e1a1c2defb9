// moe_permute on CUDA: the counting sort of core, and with a capacity a second one without the
// slots that are dropped.
#include "core/bucket_sort.cuh"
#include "core/cuda/launch.h"
#include "core/scratch.h"
#include "moe/permute_cuda.h"

namespace thrifty::moe::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kThreads = 256;

struct Drop {
  BucketSort sort;  // whose order and offsets are known
  const void* priority;
  Dtype dtype;
  int64_t capacity;
  int32_t* kept;  // [S]: the expert of each slot, -1 for none
};

// Before whom a slot goes; ties to the lower slot, NaN last.
THRIFTY_DEVICE bool goes_before(double a, double b) { return a > b || (a == a && b != b); }

// A slot's rank among those of its expert is counted: capacities drop few, experts have few rows.
__global__ void __launch_bounds__(kThreads) moe_drop_kernel(Drop drop) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= drop.sort.n) return;
  const int slot = drop.sort.order[row], expert = bucket_of(drop.sort, slot);
  if (expert == drop.sort.buckets) {
    drop.kept[slot] = -1;
    return;
  }
  const int begin = drop.sort.offsets[expert], end = drop.sort.offsets[expert + 1];
  int64_t rank = row - begin;
  if (drop.priority != nullptr && end - begin > drop.capacity) {
    const double mine = load_element<double>(drop.priority, drop.dtype, slot);
    rank = 0;
    for (int r = begin; r < end; ++r) {
      const double other = load_element<double>(drop.priority, drop.dtype, drop.sort.order[r]);
      rank += goes_before(other, mine) || (r < row && !goes_before(mine, other));
    }
  }
  drop.kept[slot] = rank < drop.capacity ? expert : -1;
}

BucketSort sort_of(const Permute& permute, int32_t* slot, int32_t* offsets, int32_t* inverse) {
  return {.ids = permute.ids.data,
          .dtype = permute.ids.dtype,
          .n = permute.slots(),
          .buckets = permute.experts,
          .map = permute.map ? permute.map.data : nullptr,
          .map_dtype = permute.map.dtype,
          .map_size = permute.map ? permute.map.shape[0] : 0,
          .order = slot,
          .offsets = offsets,
          .inverse = inverse};
}

int64_t kept_bytes(const Permute& permute) {
  return permute.capacity > 0 ? round_up(permute.slots() * 4, 256) : 0;
}

}  // namespace

int64_t moe_permute_scratch(const Permute& permute) {
  return kept_bytes(permute) + bucket_sort_scratch(sort_of(permute, nullptr, nullptr, nullptr));
}

Status moe_permute(const Permute& permute, int32_t* slot, int32_t* offsets, int32_t* inverse,
                   void* scratch, cudaStream_t stream) {
  auto* const kept = static_cast<int32_t*>(scratch);
  void* const counts = static_cast<std::byte*>(scratch) + kept_bytes(permute);
  BucketSort sort = sort_of(permute, slot, offsets, inverse);
  Status status = bucket_sort(sort, counts, stream);
  if (permute.capacity == 0 || !status.ok()) return status;
  const Drop drop{sort, permute.priority ? permute.priority.data : nullptr, permute.priority.dtype,
                  permute.capacity, kept};
  const dim3 grid(unsigned(ceil_div(sort.n, kThreads)));
  status = {launch(moe_drop_kernel, grid, kThreads, 0, stream, drop), "moe_drop"};
  if (!status.ok()) return status;
  sort.ids = kept, sort.dtype = Dtype::kInt32, sort.map = nullptr;
  return bucket_sort(sort, counts, stream);
}

}  // namespace thrifty::moe::cuda
