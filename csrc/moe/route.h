// Routing: which K of E experts a token goes to, and with which weights.
//
//   softmax       s = softmax(logits)
//   sigmoid       s = sigmoid(logits)                          DeepSeek-V3, arXiv 2412.19437, 2.1.2
//   topk_softmax  s = logits, and w = softmax of the K chosen  gpt-oss
//
//   c = s + bias        ids = the K largest c, in the best groups only       w = scale s[ids] / sum
//
// The bias chooses and does not weigh. With groups, a group's score is the sum of its `group_topn`
// largest c and only the best `topk_group` groups take part. Ties go to the lower index, a NaN
// ranks below every number. Sums over tokens for the statistics (PreMoE's TCESS, arXiv 2505.17639,
// 3.2) are taken per block of tokens and added in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::moe {

enum class Score { kSoftmax, kSigmoid, kTopkSoftmax };

struct Route {
  Array logits;  // [T, E], contiguous, floating
  Array bias;    // [E] float32, or float64 with float64 logits; may be absent
  Array mask;    // [E] uint8, 0: never chosen; may be absent
  int64_t tokens = 0, experts = 0, top_k = 0;
  Score score = Score::kSoftmax;
  bool renorm = false;
  double scale = 1;
  int64_t n_group = 1, topk_group = 1, group_topn = 1;
  double threshold = 0;  // statistics count a choice whose softmax among the K is at least this

  Dtype wide() const { return logits.dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32; }
};

struct RouteArgs {
  Array logits = {}, bias = {}, mask = {};
  int64_t top_k = 0;
  std::string_view score = "softmax";
  bool renorm = false;
  double scale = 1;
  int64_t n_group = 1, topk_group = 1, group_topn = 1;
  double threshold = 0;
};

Route check_moe_route(const RouteArgs& args);

// weights: [T, K] wide; ids: [T, K], -1 (weight 0) where no expert is left; score_sum (wide) and
// count: [E], or null.
void moe_route_fwd(const Route& route, void* weights, int32_t* ids, void* score_sum, int32_t* count,
                   ParallelFor parallel);

// dlogits: [T, E] in the logits' dtype, from grad [T, K] wide and the ids of forward.
void moe_route_bwd(const Route& route, const void* grad, const int32_t* ids, void* dlogits,
                   ParallelFor parallel);

}  // namespace thrifty::moe
