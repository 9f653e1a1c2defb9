// Drafts from a table on the device: a block of threads per sequence, level by level, a thread per
// node. Children take their places by a prefix sum, so nodes stand breadth first as on the CPU.
#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "drafting/ngram_region.cuh"

namespace thrifty::drafting::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / kWarpSize;
constexpr uint32_t kDraftStream = 4;  // as on the CPU

struct DraftArgs {
  DeviceTable table;
  Contexts contexts;
  const int32_t *child_begin, *child_count;
  int64_t nodes;
  DraftSettings settings;
  DraftArrays out;
};

// Pairs of one slot, in registers: every loop over them is unrolled.
struct Pairs {
  int32_t ids[kMaxK];
  float p[kMaxK];  // tempered
  float scale;     // q = scale p
  int m = 0;
};

// Pairs too small to be drawn, which are the last ones, are left out, as verification divides by q.
// The sum is that of ngram_isa.cpp, in its order.
THRIFTY_DEVICE Pairs read_pairs(const Region& region, int64_t index, bool sample, float inv_temp) {
  const uint32_t* const slot = region.slot(index);
  Pairs pairs;
  const uint32_t stored = slot[kSlotPairs];
  pairs.m = int(stored < uint32_t(region.k) ? stored : uint32_t(region.k));
#pragma unroll
  for (int i = 0; i < kMaxK; ++i) {
    pairs.ids[i] = i < pairs.m ? int32_t(slot[kSlotIds + i]) : -1;
    pairs.p[i] = i < pairs.m ? bits_as_float(slot[kSlotIds + region.k + i]) : 0;
  }
  if (!sample) return pairs;
  const float largest = pairs.p[0];
  float sums[8];
#pragma unroll
  for (int i = 0; i < kMaxK; ++i) {
    if (inv_temp != 1) {
      pairs.p[i] = i < pairs.m ? powf(pairs.p[i] / largest, inv_temp) : 0;
      if (i < pairs.m && !(pairs.p[i] >= kSmallestProb)) pairs.p[i] = 0, pairs.m = i;
    }
    sums[i % 8] = i < 8 ? pairs.p[i] : sums[i % 8] + pairs.p[i];
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[i] += sums[i + 4];
  pairs.scale = 1 / ((sums[0] + sums[2]) + (sums[1] + sums[3]));
#pragma unroll
  for (int i = 0; i < kMaxK; ++i) {
    if (i >= pairs.m) pairs.ids[i] = -1;
  }
  return pairs;
}

// The sum of a number over the threads before this one, and over all; all threads call.
struct Scan {
  int before, total;
};
THRIFTY_DEVICE Scan block_scan(int value, int* warp_sums) {
  int sum = value;
#pragma unroll
  for (int delta = 1; delta < kWarpSize; delta *= 2) {
    const int below = shfl_up(sum, delta);
    if (lane_index() >= delta) sum += below;
  }
  if (lane_index() == kWarpSize - 1) warp_sums[warp_index()] = sum;
  syncthreads();
  Scan scan{sum - value, 0};
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp < warp_index()) scan.before += warp_sums[warp];
    scan.total += warp_sums[warp];
  }
  syncthreads();
  return scan;
}

class Filler {
 public:
  THRIFTY_DEVICE Filler(const DraftArgs& args, int64_t b)
      : a_(args),
        region_(args.table),
        b_(b),
        nodes_(args.nodes),
        words_((args.nodes + 63) / 64),
        len_(context_length(args.contexts, b, region_.n_max)),
        tail_(args.contexts.tails + (b + 1) * args.contexts.stride),
        tokens_(args.out.tokens + b * nodes_),
        parents_(args.out.parents + b * nodes_),
        first_child_(args.out.first_child + b * nodes_),
        next_sibling_(args.out.next_sibling + b * nodes_),
        depths_(args.out.depths + b * nodes_),
        slots_(args.out.slots + b * nodes_) {}

  THRIFTY_DEVICE void fill(int* warp_sums) {
    for (int64_t i = threadIdx.x; i < nodes_ * region_.k; i += kThreads) {
      a_.out.q_ids[b_ * nodes_ * region_.k + i] = -1;
      a_.out.q[b_ * nodes_ * region_.k + i] = 0;
    }
    if (threadIdx.x == 0 && len_ > 0) {
      place(0, -1, 0, tail_[-1], true);
    }
    syncthreads();
    int64_t begin = 0, end = len_ > 0 ? 1 : 0, size = end;
    while (begin < end) {
      for (int64_t first = begin; first < end; first += kThreads) {
        const int64_t node = first + threadIdx.x;
        const int slot = node < end ? slots_[node] : 0;
        const int wanted = node < end ? children_of(slot) : 0;
        const int64_t found = wanted > 0 ? look_up(node) : -1;
        Pairs pairs;
        if (found >= 0)
          pairs = read_pairs(region_, found, a_.settings.sample, a_.settings.inv_temp);
        const int count = wanted < pairs.m ? wanted : pairs.m;
        const Scan scan = block_scan(count, warp_sums);
        if (node < end) expand(node, slot, pairs, count, size + scan.before);
        size += scan.total;
      }
      syncthreads();  // the level's children are there
      begin = end, end = size;
    }
    finish(size);
  }

 private:
  // Children that the template gives a slot; none where it does not make sense.
  THRIFTY_DEVICE int children_of(int slot) const {
    const int64_t begin = a_.child_begin[slot], count = a_.child_count[slot];
    return begin > slot && count > 0 && begin + count <= nodes_ ? int(count) : 0;
  }

  // The slot of the longest known context that ends with a node; -1 where none is known.
  THRIFTY_DEVICE int64_t look_up(int64_t node) const {
    int64_t found = -1;
    uint64_t hash = hash_seed(region_.seed);
    int n = 1;
    for (; n <= region_.n_max && node > 0; ++n, node = parents_[node]) {
      hash = hash_token(hash, tokens_[node]);
      found = probe(hash, n, found);
    }
    for (int i = 1; n <= region_.n_max && i <= len_; ++n, ++i) {
      hash = hash_token(hash, tail_[-i]);
      found = probe(hash, n, found);
    }
    return found;
  }
  THRIFTY_DEVICE int64_t probe(uint64_t hash, int n, int64_t found) const {
    if (n < region_.n_min) return found;
    const int64_t slot = region_.find(hash);
    return slot >= 0 ? slot : found;
  }

  // Children drawn one after the other, each from what is left; greedy: in the order of the slot.
  THRIFTY_DEVICE void expand(int64_t node, int slot, const Pairs& pairs, int count, int64_t first) {
    first_child_[node] = count > 0 ? int32_t(first) : -1;
    if (count == 0) return;
    const bool sample = a_.settings.sample;
    double left[kMaxK];
    uint32_t alive = (1u << pairs.m) - 1;
#pragma unroll
    for (int i = 0; i < kMaxK; ++i) {
      left[i] = double(pairs.p[i]);
      if (!sample || i >= region_.k) continue;
      const int64_t at = (b_ * nodes_ + node) * region_.k + i;
      a_.out.q_ids[at] = pairs.ids[i];
      a_.out.q[at] = pairs.scale * pairs.p[i];
    }
    const int begin = a_.child_begin[slot];
    for (int r = 0; r < count; ++r) {
      const int lane = sample ? take(left, word(begin + r), alive) : r;
      int32_t token = -1;
#pragma unroll
      for (int i = 0; i < kMaxK; ++i) {
        if (i == lane) token = pairs.ids[i];
      }
      place(first + r, node, begin + r, token, r + 1 == count);
    }
  }

  // The index drawn by a word: the first at which the partial sums exceed the target; and out of p
  // with it.
  THRIFTY_DEVICE static int take(double (&left)[kMaxK], uint32_t word, uint32_t& alive) {
    double total = 0, sum = 0;
#pragma unroll
    for (int i = 0; i < kMaxK; ++i) total += left[i];
    const double target = (double(word) + 0.5) * 0x1p-32 * total;
    uint32_t above = 0;
#pragma unroll
    for (int i = 0; i < kMaxK; ++i) {
      sum += left[i];
      above |= uint32_t(sum > target) << i;
    }
    above &= alive;
    int lane = find_first_set(above) - 1;
    if (above == 0) lane = 31 - count_leading_zeros(alive);  // by rounding
#pragma unroll
    for (int i = 0; i < kMaxK; ++i) {
      if (i == lane) left[i] = 0;
    }
    alive &= ~(1u << lane);
    return lane;
  }

  // The word of randomness of a slot of the template.
  THRIFTY_DEVICE uint32_t word(int slot) const {
    const auto offset = uint64_t(a_.settings.offsets[b_]);
    const Philox4 four =
        philox(uint64_t(a_.settings.seeds[b_]),
               {{uint32_t(slot / 4), kDraftStream, uint32_t(offset), uint32_t(offset >> 32)}});
    const uint32_t low = slot % 2 ? four.word[1] : four.word[0];
    const uint32_t high = slot % 2 ? four.word[3] : four.word[2];
    return slot % 4 < 2 ? low : high;
  }

  THRIFTY_DEVICE void place(int64_t node, int64_t parent, int slot, int32_t token,
                            bool last) const {
    tokens_[node] = token, slots_[node] = slot, parents_[node] = int32_t(parent);
    depths_[node] = parent >= 0 ? depths_[parent] + 1 : 0;
    next_sibling_[node] = last ? -1 : int32_t(node + 1);
    first_child_[node] = -1;
    int64_t* const own = a_.out.ancestors + (b_ * nodes_ + node) * words_;
    for (int64_t w = 0; w < words_; ++w) {
      const int64_t above = parent >= 0 ? own[(parent - node) * words_ + w] : 0;
      const uint64_t bit = node / 64 == w ? uint64_t(1) << (node % 64) : 0;
      own[w] = int64_t(uint64_t(above) | bit);
    }
  }

  THRIFTY_DEVICE void finish(int64_t size) const {
    if (threadIdx.x == 0) a_.out.sizes[b_] = int32_t(size);
    for (int64_t i = size + threadIdx.x; i < nodes_; i += kThreads) {
      tokens_[i] = parents_[i] = first_child_[i] = next_sibling_[i] = depths_[i] = slots_[i] = -1;
      for (int64_t w = 0; w < words_; ++w) a_.out.ancestors[(b_ * nodes_ + i) * words_ + w] = 0;
    }
  }

  const DraftArgs& a_;
  const Region region_;
  const int64_t b_, nodes_, words_;
  const int len_;
  const int32_t* const tail_;
  int32_t *const tokens_, *const parents_, *const first_child_, *const next_sibling_,
                                                                    *const depths_, *const slots_;
};

__global__ void __launch_bounds__(kThreads) ngram_draft_kernel(DraftArgs args) {
  THRIFTY_SHARED(int, warp_sums, [kWarps]);
  Filler(args, blockIdx.x).fill(warp_sums);
}

}  // namespace

LaunchStatus ngram_draft(const DeviceTable& table, const Contexts& contexts,
                         const int32_t* child_begin, const int32_t* child_count, int64_t nodes,
                         const DraftSettings& settings, const DraftArrays& out,
                         cudaStream_t stream) {
  const DraftArgs args{table, contexts, child_begin, child_count, nodes, settings, out};
  return {launch(ngram_draft_kernel, unsigned(contexts.rows), kThreads, 0, stream, args),
          "ngram_draft"};
}

}  // namespace thrifty::drafting::cuda
