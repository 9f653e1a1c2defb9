// token_topk on CUDA: a block per sequence finds the k-th largest score digit by digit, from the
// highest (radix selection over 256 counts), then writes what is above it in rising order.
#include "core/cuda/atomic.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/element.cuh"
#include "core/product.cuh"
#include "moe/token_rows_cuda.h"

namespace thrifty::moe::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kThreads = 256, kWarps = kThreads / kWarpSize, kDigits = 256;
constexpr int kDigitsPerLane = kDigits / kWarpSize;

struct TopkArgs {
  const void* scores;  // [batch, length]
  Dtype dtype;
  int length, k;
  void* weights;   // [batch, k]
  int64_t* index;  // [batch, k]
};

// Unsigned numbers in the order of the scores: 0 and -0 are one, NaN is below all.
template <class A>
struct Keys;
template <>
struct Keys<float> {
  using Key = uint32_t;
};
template <>
struct Keys<double> {
  using Key = uint64_t;
};
template <class A, class Key = typename Keys<A>::Key>
THRIFTY_DEVICE Key key_of(A score) {
  if (score != score) return 0;
  score += A(0);  // -0 to 0
  Key bits;
  memcpy(&bits, &score, sizeof bits);
  constexpr Key kSign = Key(1) << (8 * sizeof(Key) - 1);
  return bits & kSign ? ~bits : bits | kSign;
}

struct Shared {
  int counts[kDigits];
  int digit, left;  // the digit of the k-th largest, and how many of those with it are wanted
  int above[kWarps], equal[kWarps];
};

// Of `left` wanted numbers, counted by digit, the last one's digit. One warp.
THRIFTY_DEVICE void pick_digit(Shared& shared, int left) {
  const int first = (kWarpSize - 1 - lane_index()) * kDigitsPerLane;  // lane 0: the highest
  int own = 0;
  for (int d = 0; d < kDigitsPerLane; ++d) own += shared.counts[first + d];
  int through = own;  // of this lane's digits and those above
  for (int step = 1; step < kWarpSize; step *= 2) {
    const int more = shfl_up(through, step);
    if (lane_index() >= step) through += more;
  }
  if (through < left || through - own >= left) return;  // exactly one lane stays; nothing follows
  left -= through - own;
  int digit = first + kDigitsPerLane - 1;
  for (; shared.counts[digit] < left; --digit) left -= shared.counts[digit];
  shared.digit = digit, shared.left = left;
}

template <class A>
__global__ void __launch_bounds__(kThreads) token_topk_kernel(const TopkArgs args) {
  using Key = typename Keys<A>::Key;
  THRIFTY_SHARED(Shared, shared, [1]);
  const int64_t row = int64_t(blockIdx.x) * args.length;
  const int thread = int(threadIdx.x), lane = lane_index(), warp = warp_index();
  const auto key_at = [&](int i) {
    return key_of<A>(load_element<A>(args.scores, args.dtype, row + i));
  };

  Key last = 0, known = 0;  // the digits found so far, and which they are
  int left = args.k;
  for (int shift = 8 * int(sizeof(Key)) - 8; shift >= 0; shift -= 8) {
    shared->counts[thread] = 0;
    syncthreads();
    for (int i = thread; i < args.length; i += kThreads) {
      const Key key = key_at(i);
      if ((key & known) == last) atomic_add(&shared->counts[int(key >> shift & 0xff)], 1);
    }
    syncthreads();
    if (warp == 0) pick_digit(*shared, left);
    syncthreads();
    left = shared->left;
    last |= Key(shared->digit) << shift, known |= Key(0xff) << shift;
  }

  // Number i goes behind all larger ones and at most `left` equal ones that come before it.
  int above = 0, equal = 0;
  for (int base = 0; base < args.length; base += kThreads) {
    const int i = base + thread;
    const Key key = i < args.length ? key_at(i) : 0;
    const bool is_above = i < args.length && key > last, is_equal = i < args.length && key == last;
    const uint32_t aboves = warp_ballot(is_above), equals = warp_ballot(is_equal);
    if (lane == 0) shared->above[warp] = popcount(aboves), shared->equal[warp] = popcount(equals);
    syncthreads();
    const uint32_t before = (1u << lane) - 1;
    int my_above = above + popcount(aboves & before), my_equal = equal + popcount(equals & before);
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) my_above += shared->above[w], my_equal += shared->equal[w];
      above += shared->above[w], equal += shared->equal[w];
    }
    if (is_above || (is_equal && my_equal < left)) {
      const int64_t to =
          int64_t(blockIdx.x) * args.k + my_above + (my_equal < left ? my_equal : left);
      args.index[to] = i;
      store_element(args.weights, args.dtype, to,
                    load_element<A>(args.scores, args.dtype, row + i));
    }
    syncthreads();
  }
}

}  // namespace

Status token_topk(const TokenTopk& topk, void* weights, int64_t* index, cudaStream_t stream) {
  if (topk.k == 0) return {};
  const TopkArgs args{topk.scores.data, topk.scores.dtype, int(topk.length),
                      int(topk.k),      weights,           index};
  dim3 grid;
  if (!one_dimensional_grid(topk.batch, grid)) {
    return {cudaErrorInvalidConfiguration, "token_topk"};
  }
  const auto kernel =
      args.dtype == Dtype::kFloat64 ? token_topk_kernel<double> : token_topk_kernel<float>;
  return {launch(kernel, grid, kThreads, 0, stream, args), "token_topk"};
}

}  // namespace thrifty::moe::cuda
