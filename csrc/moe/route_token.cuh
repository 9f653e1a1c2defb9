// One warp routes one token, as Router of route_cpu.cpp: expert e belongs to lane e % 32, its score
// and its candidacy lie in shared memory, and the K best are found by K searches of the warp.
#pragma once

#include "core/cuda/index.cuh"
#include "core/element.cuh"
#include "core/special.cuh"
#include "moe/route.h"

namespace thrifty::moe::cuda {

using namespace thrifty::cuda;

// Route without its Arrays.
struct RouteShape {
  const void* logits;  // [T, E]
  Dtype dtype;
  const void* bias;     // [E] W, or null
  const uint8_t* mask;  // [E], or null
  int64_t tokens;
  int experts, top_k;
  Score score;
  bool renorm;
  double scale;
  int n_group, topk_group, group_topn;
  double threshold;
};

// NaN marks what takes no part (any more); NaN candidates become -infinity before.
template <class W>
THRIFTY_DEVICE W nothing() {
  return W(NAN);
}

// The index of the largest of values[0, n), ties to the lower; -1 where all are NaN. Value i is
// read by lane i % 32.
template <class W>
THRIFTY_DEVICE int warp_best(const W* values, int n) {
  W top = 0;
  int at = -1;
  for (int i = lane_index(); i < n; i += kWarpSize) {
    if (values[i] == values[i] && (at < 0 || values[i] > top)) top = values[i], at = i;
  }
#pragma unroll
  for (int bits = kWarpSize / 2; bits > 0; bits /= 2) {
    const W value = shfl_xor(top, bits);
    const int index = shfl_xor(at, bits);
    const bool wins = at < 0 || value > top || (value == top && index < at);
    if (index >= 0 && wins) top = value, at = index;
  }
  return at;
}

// softmax of values[0, n) in place; value i is lane i % 32's.
template <class W>
THRIFTY_DEVICE void warp_softmax(W* values, int n) {
  W top = -INFINITY, sum = 0;
  for (int i = lane_index(); i < n; i += kWarpSize) top = values[i] > top ? values[i] : top;
  top = warp_max(top);
  for (int i = lane_index(); i < n; i += kWarpSize) {
    values[i] = exponential(values[i] - top);
    sum += values[i];
  }
  sum = warp_sum(sum);
  for (int i = lane_index(); i < n; i += kWarpSize) values[i] /= sum;
}

template <class W>
struct TokenRouter {
  const RouteShape& shape;
  int64_t token;
  W *score, *candidate;  // [E]
  W *chosen, *groups;    // [K], [n_group]
  int32_t* ids;          // [K]

  static __host__ __device__ size_t shared_bytes(int experts, int top_k, int groups) {
    const size_t bytes = size_t(2 * experts + top_k + groups) * sizeof(W) + size_t(top_k) * 4;
    return (bytes + 15) / 16 * 16;
  }

  THRIFTY_DEVICE TokenRouter(const RouteShape& shape, unsigned char* shared)
      : shape(shape),
        token(0),
        score(reinterpret_cast<W*>(shared)),
        candidate(score + shape.experts),
        chosen(candidate + shape.experts),
        groups(chosen + shape.top_k),
        ids(reinterpret_cast<int32_t*>(groups + shape.n_group)) {}

  THRIFTY_DEVICE W logit(int e) const {
    if (!allowed(e)) return -INFINITY;
    return load_element<W>(shape.logits, shape.dtype, token * shape.experts + e);
  }
  THRIFTY_DEVICE bool allowed(int e) const { return shape.mask == nullptr || shape.mask[e] != 0; }

  THRIFTY_DEVICE void load(int64_t of_token) {
    token = of_token;
    syncwarp();  // the last token's scores are read by all lanes
    for (int e = lane_index(); e < shape.experts; e += kWarpSize) {
      const W l = logit(e);
      score[e] = shape.score == Score::kSigmoid ? sigmoid(l) : l;
    }
    if (shape.score == Score::kSoftmax) warp_softmax(score, shape.experts);
  }

  THRIFTY_DEVICE void choose() {
    const W* const bias = static_cast<const W*>(shape.bias);
    for (int e = lane_index(); e < shape.experts; e += kWarpSize) {
      const W c = score[e] + (bias == nullptr ? W(0) : bias[e]);
      candidate[e] = !allowed(e) ? nothing<W>() : c == c ? c : W(-INFINITY);
    }
    if (shape.topk_group < shape.n_group) drop_groups();
    for (int k = 0; k < shape.top_k; ++k) {
      const int best = warp_best(candidate, shape.experts);
      if (lane_index() == 0) ids[k] = best;
      if (best >= 0 && lane_index() == best % kWarpSize) candidate[best] = nothing<W>();
    }
    syncwarp();
  }

  // The weights of ids[k] in chosen[k].
  THRIFTY_DEVICE void weigh() {
    const int n = count();
    for (int k = lane_index(); k < shape.top_k; k += kWarpSize) {
      chosen[k] = k < n ? score[ids[k]] : W(0);
    }
    if (shape.score == Score::kTopkSoftmax) warp_softmax(chosen, n);
    W sum = 0;
    for (int k = lane_index(); k < n; k += kWarpSize) sum += chosen[k];
    sum = warp_sum(sum) + guard();
    for (int k = lane_index(); k < n; k += kWarpSize) {
      chosen[k] = (shape.renorm ? chosen[k] / sum : chosen[k]) * W(shape.scale);
    }
  }

  // The softmax of the chosen logits in chosen[k].
  THRIFTY_DEVICE void compare_chosen(int n) {
    for (int k = lane_index(); k < n; k += kWarpSize) chosen[k] = logit(ids[k]);
    warp_softmax(chosen, n);
  }

  // How many experts were chosen; the ids behind them are -1.
  THRIFTY_DEVICE int count() const {
    for (int first = 0; first < shape.top_k; first += kWarpSize) {
      const int k = first + lane_index();
      const uint32_t none = warp_ballot(k >= shape.top_k || ids[k] < 0);
      if (none != 0) return first + find_first_set(none) - 1;
    }
    return shape.top_k;
  }

  // DeepSeek-V3's guard of the sigmoid quotient
  THRIFTY_DEVICE W guard() const { return shape.score == Score::kSigmoid ? W(1e-20) : W(0); }

  // dL/dlogits in candidate[e] from g [K] = dL/dw, for the ids of forward.
  THRIFTY_DEVICE void backward(const W* g) {
    for (int e = lane_index(); e < shape.experts; e += kWarpSize) candidate[e] = 0;
    syncwarp();
    const int n = count();
    if (n > 0) {
      shape.score == Score::kSigmoid ? sigmoid_backward(g, n) : softmax_backward(g, n);
    }
    syncwarp();
  }

 private:
  // Candidates outside the best groups take no part.
  THRIFTY_DEVICE void drop_groups() {
    const int size = shape.experts / shape.n_group;
    syncwarp();
    for (int g = lane_index(); g < shape.n_group; g += kWarpSize) {
      const W sum = group_score(candidate + g * size, size);
      groups[g] = sum == sum ? sum : W(-INFINITY);
    }
    for (int i = 0; i < shape.topk_group; ++i) {
      const int best = warp_best(groups, shape.n_group);
      if (best >= 0 && lane_index() == best % kWarpSize) groups[best] = nothing<W>();
    }
    syncwarp();
    for (int e = lane_index(); e < shape.experts; e += kWarpSize) {
      const W left = groups[e / size];
      if (left == left) candidate[e] = nothing<W>();
    }
  }

  // The sum of the group_topn largest, largest first: each is the next below the one before.
  THRIFTY_DEVICE W group_score(const W* values, int size) const {
    W sum = 0, last = INFINITY;
    int at = -1;
    for (int i = 0; i < shape.group_topn; ++i) {
      int next = -1;
      for (int j = 0; j < size; ++j) {
        const W v = values[j];
        const bool follows = v < last || (v == last && j > at);
        if (follows && (next < 0 || v > values[next])) next = j;
      }
      if (next < 0) return i == 0 ? W(-INFINITY) : sum;
      at = next, last = values[next];
      sum += last;
    }
    return sum;
  }

  THRIFTY_DEVICE void softmax_backward(const W* g, int n) {
    // s / sum s over the chosen is the softmax of their logits.
    const bool among_chosen = shape.renorm || shape.score == Score::kTopkSoftmax;
    if (among_chosen) {
      compare_chosen(n);
    } else {
      for (int k = lane_index(); k < n; k += kWarpSize) chosen[k] = score[ids[k]];
    }
    W dot = 0;
    for (int k = lane_index(); k < n; k += kWarpSize) dot += g[k] * chosen[k];
    dot = warp_sum(dot);
    const W scale = W(shape.scale);
    for (int e = lane_index(); !among_chosen && e < shape.experts; e += kWarpSize) {
      candidate[e] = -scale * dot * score[e];
    }
    syncwarp();
    for (int k = lane_index(); k < n; k += kWarpSize) {
      candidate[ids[k]] = scale * chosen[k] * (g[k] - dot);
    }
  }

  THRIFTY_DEVICE void sigmoid_backward(const W* g, int n) {
    W sum = 0, dot = 0;
    for (int k = lane_index(); k < n; k += kWarpSize) {
      sum += score[ids[k]];
      dot += g[k] * score[ids[k]];
    }
    sum = warp_sum(sum) + guard();
    dot = warp_sum(dot);
    for (int k = lane_index(); k < n; k += kWarpSize) {
      const W s = score[ids[k]];
      const W ds = shape.renorm ? g[k] / sum - dot / sum / sum : g[k];
      candidate[ids[k]] = W(shape.scale) * ds * s * (W(1) - s);
    }
  }
};

}  // namespace thrifty::moe::cuda
