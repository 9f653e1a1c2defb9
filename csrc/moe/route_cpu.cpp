// One token at a time: E scores, then the K best in one pass that keeps a sorted list of K.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/scratch.h"
#include "moe/elements.h"
#include "moe/route.h"

namespace thrifty::moe {
namespace {

constexpr int64_t kBlock = 64;       // tokens of a task, and of a partial sum of the statistics
constexpr double kNoExpert = 1e-20;  // DeepSeek-V3's guard of the sigmoid quotient

// The K largest of a row, ties to the lower index. NaN counts as -infinity.
template <class T>
struct Best {
  std::vector<T> value;
  std::vector<int32_t> index;
  int64_t size = 0;

  explicit Best(int64_t k) : value(size_t(k)), index(size_t(k)) {}
  void clear() { size = 0; }
  void offer(T v, int64_t i) {
    if (std::isnan(v)) v = -std::numeric_limits<T>::infinity();
    const int64_t k = int64_t(value.size());
    if (size == k && !(v > value[size_t(k - 1)])) return;
    int64_t at = size < k ? size++ : k - 1;
    for (; at > 0 && v > value[size_t(at - 1)]; --at) {
      value[size_t(at)] = value[size_t(at - 1)];
      index[size_t(at)] = index[size_t(at - 1)];
    }
    value[size_t(at)] = v;
    index[size_t(at)] = int32_t(i);
  }
};

// softmax of n values in place; masked ones are -infinity and become 0.
template <class T>
void softmax(T* v, int64_t n) {
  T top = -std::numeric_limits<T>::infinity(), sum = 0;
  for (int64_t i = 0; i < n; ++i) top = std::max(top, v[i]);
  for (int64_t i = 0; i < n; ++i) sum += v[i] = std::exp(v[i] - top);
  for (int64_t i = 0; i < n; ++i) v[i] /= sum;
}

template <class T>
T sigmoid(T x) {
  return T(1) / (T(1) + std::exp(-x));
}

template <class T>
class Router {
 public:
  explicit Router(const Route& route)
      : route_(route),
        logits_(size_t(route.experts)),
        score_(size_t(route.experts)),
        chosen_(size_t(route.top_k)),
        best_(route.top_k),
        groups_(route.topk_group),
        in_group_(route.group_topn) {}

  // Logits of a token, masked ones as -infinity, and the scores.
  void load(int64_t token) {
    const int64_t n = route_.experts;
    to_wide(n, route_.logits, token * n, logits_.data());
    if (route_.mask) {
      for (int64_t e = 0; e < n; ++e) {
        if (!allowed(e)) logits_[size_t(e)] = -std::numeric_limits<T>::infinity();
      }
    }
    score_ = logits_;
    if (route_.score == Score::kSoftmax) softmax(score_.data(), n);
    if (route_.score == Score::kSigmoid) {
      for (T& s : score_) s = sigmoid(s);
    }
  }

  void choose(int32_t* ids) {
    best_.clear();
    const int64_t size = route_.experts / route_.n_group;
    if (route_.topk_group == route_.n_group) {
      offer(0, route_.experts);
    } else {
      groups_.clear();
      for (int64_t g = 0; g < route_.n_group; ++g) groups_.offer(group_score(g * size, size), g);
      std::sort(groups_.index.begin(), groups_.index.end());  // so that ties go to the lower index
      for (const int32_t g : groups_.index) offer(g * size, size);
    }
    for (int64_t k = 0; k < route_.top_k; ++k) {
      ids[k] = k < best_.size ? best_.index[size_t(k)] : -1;
    }
  }

  void weigh(const int32_t* ids, T* w) const {
    for (int64_t k = 0; k < route_.top_k; ++k) w[k] = ids[k] < 0 ? T(0) : score_[size_t(ids[k])];
    const int64_t chosen = count(ids);
    if (route_.score == Score::kTopkSoftmax) softmax(w, chosen);
    T sum = route_.score == Score::kSigmoid ? T(kNoExpert) : T(0);
    for (int64_t k = 0; k < chosen; ++k) sum += w[k];
    for (int64_t k = 0; k < chosen; ++k) {
      w[k] = (route_.renorm ? w[k] / sum : w[k]) * T(route_.scale);
    }
  }

  // sum[e] += logit and ++count[e] of the chosen whose softmax among the chosen is large enough.
  void observe(const int32_t* ids, double* sum, int32_t* counts) {
    const int64_t chosen = count(ids);
    for (int64_t k = 0; k < chosen; ++k) chosen_[size_t(k)] = logits_[size_t(ids[k])];
    softmax(chosen_.data(), chosen);
    for (int64_t k = 0; k < chosen; ++k) {
      if (!(chosen_[size_t(k)] >= T(route_.threshold))) continue;
      sum[ids[k]] += double(logits_[size_t(ids[k])]);
      ++counts[ids[k]];
    }
  }

  // dlogits of a token from g = dL/dw.
  void backward(const int32_t* ids, const T* g, T* dlogits) {
    std::fill_n(dlogits, route_.experts, T(0));
    const int64_t chosen = count(ids);
    if (chosen == 0) return;
    if (route_.score == Score::kSigmoid) return sigmoid_backward(ids, g, chosen, dlogits);
    const T scale = T(route_.scale);
    const bool among_chosen = route_.renorm || route_.score == Score::kTopkSoftmax;
    if (among_chosen) {  // s / sum s over the chosen is the softmax of their logits
      for (int64_t k = 0; k < chosen; ++k) chosen_[size_t(k)] = logits_[size_t(ids[k])];
      softmax(chosen_.data(), chosen);
    }
    T dot = 0;
    for (int64_t k = 0; k < chosen; ++k) dot += g[k] * probability(among_chosen, k, ids);
    if (!among_chosen) {
      for (int64_t e = 0; e < route_.experts; ++e) dlogits[e] = -scale * dot * score_[size_t(e)];
    }
    for (int64_t k = 0; k < chosen; ++k) {
      const T p = probability(among_chosen, k, ids);
      dlogits[ids[k]] = scale * p * (g[k] - dot);
    }
  }

 private:
  bool allowed(int64_t e) const {
    return !route_.mask || static_cast<const uint8_t*>(route_.mask.data)[e] != 0;
  }
  T candidate(int64_t e) const {
    const T bias = route_.bias ? static_cast<const T*>(route_.bias.data)[e] : T(0);
    return score_[size_t(e)] + bias;
  }
  void offer(int64_t first, int64_t n) {
    for (int64_t e = first; e < first + n; ++e) {
      if (allowed(e)) best_.offer(candidate(e), e);
    }
  }
  T group_score(int64_t first, int64_t n) {
    in_group_.clear();
    for (int64_t e = first; e < first + n; ++e) {
      if (allowed(e)) in_group_.offer(candidate(e), e);
    }
    T sum = in_group_.size > 0 ? T(0) : -std::numeric_limits<T>::infinity();
    for (int64_t i = 0; i < in_group_.size; ++i) sum += in_group_.value[size_t(i)];
    return sum;
  }
  int64_t count(const int32_t* ids) const { return std::find(ids, ids + route_.top_k, -1) - ids; }
  T probability(bool among_chosen, int64_t k, const int32_t* ids) const {
    return among_chosen ? chosen_[size_t(k)] : score_[size_t(ids[k])];
  }

  void sigmoid_backward(const int32_t* ids, const T* g, int64_t chosen, T* dlogits) const {
    T sum = T(kNoExpert), dot = 0;
    for (int64_t k = 0; k < chosen; ++k) {
      sum += score_[size_t(ids[k])];
      dot += g[k] * score_[size_t(ids[k])];
    }
    for (int64_t k = 0; k < chosen; ++k) {
      const T s = score_[size_t(ids[k])];
      const T ds = route_.renorm ? g[k] / sum - dot / sum / sum : g[k];
      dlogits[ids[k]] = T(route_.scale) * ds * s * (T(1) - s);
    }
  }

  const Route& route_;
  std::vector<T> logits_, score_, chosen_;
  Best<T> best_, groups_, in_group_;
};

template <class T>
void forward(const Route& route, T* weights, int32_t* ids, T* score_sum, int32_t* count,
             ParallelFor parallel) {
  const int64_t blocks = ceil_div(route.tokens, kBlock), k = route.top_k, e = route.experts;
  const bool stats = score_sum != nullptr;
  std::vector<double> sums(size_t(stats ? blocks * e : 0));
  std::vector<int32_t> counts(sums.size());
  for_ranges(parallel, blocks, [&](int64_t begin, int64_t end) {
    Router<T> router(route);
    for (int64_t b = begin; b < end; ++b) {
      for (int64_t t = b * kBlock; t < std::min(route.tokens, (b + 1) * kBlock); ++t) {
        router.load(t);
        router.choose(ids + t * k);
        router.weigh(ids + t * k, weights + t * k);
        if (stats) router.observe(ids + t * k, sums.data() + b * e, counts.data() + b * e);
      }
    }
  });
  for (int64_t i = 0; stats && i < e; ++i) {
    double sum = 0;
    count[i] = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      sum += sums[size_t(b * e + i)];
      count[i] += counts[size_t(b * e + i)];
    }
    score_sum[i] = T(sum);
  }
}

template <class T>
void backward(const Route& route, const T* grad, const int32_t* ids, void* dlogits,
              ParallelFor parallel) {
  const int64_t k = route.top_k, e = route.experts;
  for_ranges(parallel, ceil_div(route.tokens, kBlock), [&](int64_t begin, int64_t end) {
    Router<T> router(route);
    std::vector<T> row(size_t(e), T(0));
    for (int64_t t = begin * kBlock; t < std::min(route.tokens, end * kBlock); ++t) {
      router.load(t);
      router.backward(ids + t * k, grad + t * k, row.data());
      from_wide(e, row.data(), route.logits.dtype, dlogits, t * e);
    }
  });
}

}  // namespace

void moe_route_fwd(const Route& route, void* weights, int32_t* ids, void* score_sum, int32_t* count,
                   ParallelFor parallel) {
  if (route.wide() == Dtype::kFloat64) {
    forward(route, static_cast<double*>(weights), ids, static_cast<double*>(score_sum), count,
            parallel);
  } else {
    forward(route, static_cast<float*>(weights), ids, static_cast<float*>(score_sum), count,
            parallel);
  }
}

void moe_route_bwd(const Route& route, const void* grad, const int32_t* ids, void* dlogits,
                   ParallelFor parallel) {
  if (route.wide() == Dtype::kFloat64) {
    backward(route, static_cast<const double*>(grad), ids, dlogits, parallel);
  } else {
    backward(route, static_cast<const float*>(grad), ids, dlogits, parallel);
  }
}

}  // namespace thrifty::moe
