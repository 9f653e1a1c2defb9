// The bounds of filters (row_threshold.h).
#include "core/cuda/atomic.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/launch.h"
#include "core/row_mass.cuh"
#include "core/row_reader.cuh"
#include "core/row_threshold.h"

namespace thrifty::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarpSize;
constexpr int kBins = 2048, kBinsPerThread = kBins / kThreads;
constexpr int kFew = 1024;           // tokens that are compared with each other
constexpr int kEntropyTokens = 100;  // that top_h looks at in its first variant

// What a token adds to the running sums of a search.
enum class Measure { kCount, kMass, kEntropy };

struct Amount {
  uint64_t first = 0, second = 0;  // count or p; -p log p / 32

  THRIFTY_DEVICE void add(const Amount& other) {
    first += other.first;
    second += other.second;
  }
};

// Integers of 31 + `low_bits` bits whose halves are added apart in 32 bits without overflow: the
// low halves of 2^(32 - low_bits) tokens, and the high halves because all p together are 1.
struct FixedPoint {
  int low_bits;
  float scale;

  THRIFTY_DEVICE explicit FixedPoint(int64_t vocab) : low_bits(1), scale(1) {
    while (low_bits < 31 && vocab <= int64_t(1) << (31 - low_bits)) ++low_bits;
    for (int bit = 0; bit < 31 + low_bits - 1; ++bit) scale *= 2;
  }
  THRIFTY_DEVICE uint64_t of(float p) const { return uint64_t(p * scale); }
  THRIFTY_DEVICE double number(uint64_t fixed) const { return double(fixed) / double(scale); }
};

// The search for the first token, from the largest on, with which the running amount reaches
// beyond what the filter allows.
struct Goal {
  Measure measure;
  FixedPoint fixed;
  uint64_t target = 0;  // kCount, kMass: reached when `first` is at least so much
  float share = 0;      // kMass: the target as a share of the whole range
  double limit = 0;     // kEntropy: reached when the prefix's own entropy is above

  THRIFTY_DEVICE bool reached(const Amount& sum) const {
    if (measure != Measure::kEntropy) return sum.first >= target;
    const double g = fixed.number(sum.first), h = 32 * fixed.number(sum.second);
    return g > 0 && h / g + ::log(g) > limit;
  }
};

constexpr int kParts = 4;
struct Shared {
  uint32_t bins[kParts][kBins];  // later: values and amounts of few tokens
  Amount warp_sums[kWarps];
  Amount before;  // of the bin that was found
  int bin;        // -1: the goal is not reached
  uint32_t count, largest, smallest;
  float value, top, bottom, sigma;
  float log2_top;  // log2 p of the largest logit; NaN: the row has no law
};

// Unsigned numbers in the order of floats, for atomics.
THRIFTY_DEVICE uint32_t ordered(float value) {
  const uint32_t bits = float_as_bits(value);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
THRIFTY_DEVICE float from_ordered(uint32_t key) {
  return bits_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// The next larger float.
THRIFTY_DEVICE float above(float value) { return from_ordered(ordered(value) + 1); }

// One kernel serves all dtypes: it compares and counts more than it loads.
class RowSearch {
 public:
  THRIFTY_DEVICE RowSearch(const RowThresholdArgs& args, int64_t row, Shared& shared)
      : reader_(args.rows, row),
        dtype_(args.rows.dtype),
        logits_(static_cast<const char*>(args.rows.logits) +
                args.rows.begin(row) * dtype_size(args.rows.dtype)),
        max_(args.max + row * args.rows.blocks()),
        blocks_(args.rows.blocks()),
        s_(shared),
        fixed_(args.rows.vocab) {}

  THRIFTY_DEVICE const FixedPoint& fixed() const { return fixed_; }
  THRIFTY_DEVICE double log_scale() const { return reader_.log_scale(); }
  THRIFTY_DEVICE float at_least() const { return reader_.at_least; }

  // Calls body(logit) for every kept token in [low, high].
  template <class Body>
  THRIFTY_DEVICE void for_tokens(float low, float high, const Body& body) const {
    for (int64_t block = warp_index(); block < blocks_; block += kWarps) {
      if (!(max_[block] >= low)) continue;
      const uint32_t allowed = allowed_bits(reader_.mask, reader_.mask_words, block);
#pragma unroll 1
      for (int chunk = 0; chunk < kBlockChunks; ++chunk) {
        float values[kLaneTokens];
        load(block, chunk, values);
        const uint32_t bits = allowed >> (chunk * kLaneTokens);
#pragma unroll
        for (int j = 0; j < kLaneTokens; ++j) {
          if ((bits >> j & 1) && values[j] >= low && values[j] <= high) body(values[j]);
        }
      }
    }
  }

  // Relative to the mass of the allowed tokens.
  THRIFTY_DEVICE float probability(float logit) const {
    return fminf(1, exp2f((logit - s_.top) * reader_.view.scale + s_.log2_top));
  }

  THRIFTY_DEVICE Amount amount(Measure measure, float logit) const {
    if (measure == Measure::kCount) return {1, 0};
    const float p = probability(logit);
    if (measure == Measure::kMass) return {fixed_.of(p), 0};
    return {fixed_.of(p), p > 0 ? fixed_.of(-p * logf(p) / 32) : 0};
  }

  // The smallest logit that passes. All threads call; `low` is at least the smallest kept logit.
  // -inf where all tokens from `low` on do not reach the goal.
  THRIFTY_DEVICE float find(Goal goal, float low, float high) {
    Amount before;
    while (true) {
      const Binning binning(low, high);
      histogram(goal, binning, low, high);
      choose(goal, before);
      if (s_.bin < 0) return -INFINITY;
      before = s_.before;
      const int bin = s_.bin;
      gather(binning, bin, low, high);
      high = from_ordered(s_.largest);
      low = from_ordered(s_.smallest);
      if (s_.count <= kFew || low == high) break;
    }
    if (low == high) return of_equals(goal, before, low);
    return among_few(goal, before);
  }

  // Up to kFew values of [low, high], in any order, into values(); how many there are.
  THRIFTY_DEVICE int collect(float low, float high) {
    gather(Binning(low, high), -1, low, high);
    return int(s_.count < uint32_t(kFew) ? s_.count : uint32_t(kFew));
  }
  THRIFTY_DEVICE float* values() { return reinterpret_cast<float*>(s_.bins[0]); }

 private:
  // Bins of equal width, the largest logit in bin 0. Halves, so that nothing overflows.
  struct Binning {
    float half_high, scale;

    THRIFTY_DEVICE Binning(float low, float high) : half_high(high * 0.5f) {
      const float range = half_high - low * 0.5f;
      scale = range > 1e-30f ? (kBins - 1) / range : 0;
    }
    THRIFTY_DEVICE int of(float logit) const {
      return int(fminf((half_high - logit * 0.5f) * scale, float(kBins - 1)));
    }
  };

  THRIFTY_DEVICE void histogram(const Goal& goal, const Binning& binning, float low, float high) {
    for (auto& part : s_.bins) {
      for (int i = int(threadIdx.x); i < kBins; i += kThreads) part[i] = 0;
    }
    syncthreads();
    for_tokens(low, high, [&](float logit) {
      const int bin = binning.of(logit);
      const Amount more = amount(goal.measure, logit);
      if (goal.measure == Measure::kCount) {
        atomic_add(&s_.bins[0][bin], 1u);
        return;
      }
      add_halves(0, bin, more.first);
      if (goal.measure == Measure::kEntropy) add_halves(2, bin, more.second);
    });
    syncthreads();
  }

  THRIFTY_DEVICE void add_halves(int part, int bin, uint64_t fixed) {
    const auto low = uint32_t(fixed & ((uint64_t(1) << fixed_.low_bits) - 1));
    const auto high = uint32_t(fixed >> fixed_.low_bits);
    if (low != 0) atomic_add(&s_.bins[part][bin], low);
    if (high != 0) atomic_add(&s_.bins[part + 1][bin], high);
  }

  THRIFTY_DEVICE Amount bin_amount(int bin) const {
    const auto joined = [&](int part) {
      return s_.bins[part][bin] + (uint64_t(s_.bins[part + 1][bin]) << fixed_.low_bits);
    };
    return {joined(0), joined(2)};
  }

  // The first bin with which the goal is reached, and the amount before it, into s_.bin and
  // s_.before. A thread owns kBinsPerThread neighbours.
  THRIFTY_DEVICE void choose(Goal& goal, const Amount& before) {
    Amount own[kBinsPerThread], mine;
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
      own[i] = bin_amount(int(threadIdx.x) * kBinsPerThread + i);
      mine.add(own[i]);
    }
    Amount sum = mine;  // inclusive over the lanes
#pragma unroll
    for (int delta = 1; delta < kWarpSize; delta *= 2) {
      const Amount below{shfl_up(sum.first, delta), shfl_up(sum.second, delta)};
      if (lane_index() >= delta) sum.add(below);
    }
    if (lane_index() == kWarpSize - 1) s_.warp_sums[warp_index()] = sum;
    if (threadIdx.x == 0) s_.bin = -1;
    syncthreads();
    if (goal.share > 0) {
      double whole = 0;
      for (const Amount& part : s_.warp_sums) whole += double(part.first);
      goal.target = uint64_t(fmax(1.0, ceil(double(goal.share) * whole)));
      goal.share = 0;
    }
    Amount running = before;
    for (int warp = 0; warp < warp_index(); ++warp) running.add(s_.warp_sums[warp]);
    running.first += sum.first - mine.first;
    running.second += sum.second - mine.second;
    bool done = goal.reached(running);
#pragma unroll
    for (int i = 0; i < kBinsPerThread; ++i) {
      Amount with = running;
      with.add(own[i]);
      if (!done && goal.reached(with)) {
        s_.bin = int(threadIdx.x) * kBinsPerThread + i;
        s_.before = running;
        done = true;
      }
      running = with;
    }
    syncthreads();
  }

  // Values of [low, high] that fall into `bin` (-1: any): the first kFew to come into values(),
  // their number, largest and smallest.
  THRIFTY_DEVICE void gather(const Binning& binning, int bin, float low, float high) {
    syncthreads();
    if (threadIdx.x == 0) s_.count = 0, s_.largest = 0, s_.smallest = ~0u;
    syncthreads();
    for_tokens(low, high, [&](float logit) {
      if (bin >= 0 && binning.of(logit) != bin) return;
      const uint32_t at = atomic_add(&s_.count, 1u);
      if (at < uint32_t(kFew)) values()[at] = logit;
      atomic_max(&s_.largest, ordered(logit));
      atomic_min(&s_.smallest, ordered(logit));
    });
    syncthreads();
  }

  // Tokens that all have one logit: they pass together if one does.
  THRIFTY_DEVICE float of_equals(const Goal& goal, Amount sum, float value) const {
    if (goal.measure != Measure::kEntropy) return value;
    sum.add(amount(goal.measure, value));
    return goal.reached(sum) && value < s_.top ? above(value) : value;
  }

  // Each thread adds up, for a value of its own, all that come before it: larger ones, and equal
  // ones with a smaller place, which count the same. Integers, so their order does not matter.
  THRIFTY_DEVICE float among_few(const Goal& goal, const Amount& before) {
    const int count = int(s_.count);
    if (threadIdx.x == 0) s_.value = -INFINITY;
    syncthreads();
    for (int i = int(threadIdx.x); i < count; i += kThreads) {
      const float value = values()[i];
      Amount sum = before;
      bool has_equal = false;
      for (int j = 0; j < count; ++j) {
        const float other = values()[j];
        if (other > value || (other == value && j < i)) {
          sum.add(amount(goal.measure, other));
          has_equal = has_equal || other == value;
        }
      }
      Amount with = sum;
      with.add(amount(goal.measure, value));
      if (goal.reached(sum) || !goal.reached(with)) continue;  // one value passes this
      // The token that goes beyond an entropy is the first that is left out.
      const bool out = goal.measure == Measure::kEntropy && !has_equal && value < s_.top;
      s_.value = out ? above(value) : value;
    }
    syncthreads();
    return s_.value;
  }

  THRIFTY_DEVICE void load(int64_t block, int chunk, float (&to)[kLaneTokens]) const {
    const auto load_as = [&]<class T>(T) {
      load_chunk(RowView<T>{reinterpret_cast<const T*>(logits_), reader_.view.vocab, 1}, block,
                 chunk, to);
    };
    switch (dtype_) {
      case Dtype::kBFloat16: return load_as(bf16());
      case Dtype::kFloat16: return load_as(fp16());
      default: return load_as(float());
    }
  }

  const RowReader<float> reader_;  // all but the logits, whose dtype it does not know
  const Dtype dtype_;
  const char* const logits_;
  const float* const max_;
  const int64_t blocks_;
  Shared& s_;
  const FixedPoint fixed_;
};

// `TopHLogitsWarper`: over the 100 largest, renormalised, while the sum of -p log p is at most
// alpha times the whole of it. `bound` is the hundredth, -inf where there are fewer.
THRIFTY_DEVICE float top_h_of_largest(RowSearch& search, Shared& s, float bound, float alpha) {
  const bool all = bound == -INFINITY;
  // Larger ones are fewer than 100; those equal to the bound fill up.
  const int count = search.collect(all ? s.bottom : above(bound), s.top);
  float* const sorted = search.values() + kFew;
  double* const terms = reinterpret_cast<double*>(s.bins[1]);
  const int total = all ? count : kEntropyTokens;
  for (int i = int(threadIdx.x); i < total; i += kThreads) {
    if (i >= count) {
      sorted[i] = bound;
      continue;
    }
    const float value = search.values()[i];
    int rank = 0;
    for (int j = 0; j < count; ++j) {
      const float other = search.values()[j];
      rank += other > value || (other == value && j < i);
    }
    sorted[rank] = value;
  }
  syncthreads();
  const double it = search.log_scale();
  for (int i = int(threadIdx.x); i < total; i += kThreads) {
    terms[i] = exp((double(sorted[i]) - double(sorted[0])) * it);
  }
  syncthreads();
  double sum = 0;
  for (int i = 0; i < total; ++i) sum += terms[i];
  syncthreads();
  for (int i = int(threadIdx.x); i < total; i += kThreads) {
    const double p = terms[i] / sum;
    terms[i] = p > 0 ? -p * ::log(p) : 0.0;
  }
  syncthreads();
  double entropy = 0;
  for (int i = 0; i < total; ++i) entropy += terms[i];
  double so_far = terms[0];
  int kept = 1;
  while (kept < total && (so_far += terms[kept]) <= double(alpha) * entropy) ++kept;
  const float value = sorted[kept - 1];
  syncthreads();
  return value;
}

// Of the allowed tokens: sum of -p log p.
THRIFTY_DEVICE double entropy_of(const RowSearch& search, const Shared& s) {
  double part = 0;
  search.for_tokens(s.bottom, s.top, [&](float logit) {
    const float p = search.probability(logit);
    part += p > 0 ? double(-p * logf(p)) : 0;
  });
  THRIFTY_SHARED(double, parts, [kWarps]);
  part = warp_sum(part);
  if (lane_index() == 0) parts[warp_index()] = part;
  syncthreads();
  double entropy = 0;
  for (const double share : parts) entropy += share;
  syncthreads();
  return entropy;
}

// Merges what row_sums wrote; the first warp.
THRIFTY_DEVICE void merge_blocks(const RowThresholdArgs& args, int64_t row, Shared& s) {
  const int64_t blocks = args.rows.blocks(), first = row * blocks;
  const RowTotal mass = row_total(args.kept + first, blocks);
  float top = -INFINITY, bottom = INFINITY;
  for (int64_t b = lane_index(); b < blocks; b += kWarpSize) {
    top = fmaxf(top, args.max[first + b]);
    bottom = fminf(bottom, args.moments[first + b].min);
  }
  top = warp_max(top);
  bottom = -warp_max(-bottom);
  // Moments about the row's largest logit: sums shift by the distance of the largest logits.
  double count = 0, sum = 0, squares = 0;
  for (int64_t b = lane_index(); b < blocks; b += kWarpSize) {
    const BlockMoments part = args.moments[first + b];
    if (part.count == 0) continue;
    const double apart = double(args.max[first + b]) - double(top);
    count += part.count;
    sum += part.sum + apart * part.count;
    squares += part.squares + 2 * apart * part.sum + apart * apart * part.count;
  }
  count = warp_sum(count);
  sum = warp_sum(sum);
  squares = warp_sum(squares);
  if (lane_index() != 0) return;
  const double mean = count > 0 ? sum / count : 0;
  s.sigma = float(sqrt(fmax(0.0, count > 0 ? squares / count - mean * mean : 0.0)));
  s.top = top;
  s.bottom = bottom;
  const double scale = RowReader<float>(args.rows, row).view.scale;
  s.log2_top = float(double(top) * scale - mass.exponent - log2(mass.sum));
}

// theta of a row whose logits are finite or -inf and not all -inf.
THRIFTY_DEVICE float cut(RowSearch& search, Shared& s, const RowFilters& filters, int64_t request,
                         int64_t vocab) {
  const int64_t top_k = filters.top_k[request];
  const float top_p = filters.top_p[request], min_p = filters.min_p[request];
  const float sigmas = filters.top_n_sigma[request], top_h = filters.top_h[request];
  const double top = s.top, it = search.log_scale();
  float theta = search.at_least();
  // One search in the code, for the filters that need one: top_k, top_p, top_h.
#pragma unroll 1
  for (int filter = 0; filter < 3; ++filter) {
    Goal goal{Measure::kCount, search.fixed()};
    float low = s.bottom;
    if (filter == 0) {
      if (top_k <= 0 || top_k >= vocab) continue;
      goal.target = uint64_t(top_k);
    } else if (filter == 1) {
      if (!(top_p < 1)) continue;
      goal.measure = Measure::kMass;
      goal.share = fmaxf(top_p, kSmallest);  // 0 keeps the first
      low = fmaxf(theta, low);
    } else if (!(top_h > 0)) {
      continue;
    } else if (filters.renormalised) {
      // It grows with every token, so there is one place to search for.
      goal.measure = Measure::kEntropy;
      goal.limit = double(top_h) * entropy_of(search, s);
    } else {
      goal.target = kEntropyTokens;
    }
    float bound = search.find(goal, low, s.top);
    if (filter == 2 && !filters.renormalised) bound = top_h_of_largest(search, s, bound, top_h);
    theta = fmaxf(theta, bound);
  }
  if (min_p > 0) theta = fmaxf(theta, float(top + ::log(double(min_p)) / it));
  if (sigmas > 0) theta = fmaxf(theta, float(top - double(sigmas) * double(s.sigma)));
  return fminf(theta, s.top);  // min_p = 1 may round above the largest
}

__global__ void __launch_bounds__(kThreads) row_threshold_kernel(RowThresholdArgs args) {
  THRIFTY_SHARED(Shared, shared, [1]);
  Shared& s = shared[0];
  const int64_t row = blockIdx.x;
  if (warp_index() == 0) merge_blocks(args, row, s);
  syncthreads();
  RowSearch search(args, row, s);
  float theta = search.at_least();
  if (theta != theta) {  // the row has no law, and its result says so
  } else if (s.top == -INFINITY) {
    theta = INFINITY;
  } else if (s.top < INFINITY && s.log2_top == s.log2_top) {
    theta = cut(search, s, args.filters, row / args.rows.group, args.rows.vocab);
  }
  if (threadIdx.x == 0) args.theta[row] = theta;
}

}  // namespace

cudaError_t launch_row_threshold(const RowThresholdArgs& args, cudaStream_t stream) {
  if (args.rows.rows > INT32_MAX) return cudaErrorInvalidConfiguration;
  return launch(row_threshold_kernel, unsigned(args.rows.rows), kThreads, 0, stream, args);
}

}  // namespace thrifty::cuda
