#include <cmath>

#include "core/error.h"
#include "moe/route.h"

namespace thrifty::moe {
namespace {

const std::string kOp = "moe_route";

Score parse_score(std::string_view name) {
  if (name == "softmax") return Score::kSoftmax;
  if (name == "sigmoid") return Score::kSigmoid;
  THRIFTY_CHECK(name == "topk_softmax", kOp,
                ": score: expected softmax, sigmoid or topk_softmax, got ", name);
  return Score::kTopkSoftmax;
}

void check_groups(const Route& route) {
  const int64_t n = route.n_group;
  THRIFTY_CHECK(n >= 1 && route.experts % n == 0, kOp,
                ": n_group: expected a positive divisor of the ", route.experts, " experts, got ",
                n);
  THRIFTY_CHECK(route.topk_group >= 1 && route.topk_group <= n, kOp,
                ": topk_group: expected a number from 1 to n_group = ", n, ", got ",
                route.topk_group);
  const int64_t size = route.experts / n;
  THRIFTY_CHECK(n == 1 || (route.group_topn >= 1 && route.group_topn <= size), kOp,
                ": group_topn: expected a number from 1 to the ", size, " experts of a group, got ",
                route.group_topn);
  THRIFTY_CHECK(route.top_k >= 1 && route.top_k <= route.topk_group * size, kOp,
                ": top_k: expected a number from 1 to the ", route.topk_group * size,
                " experts to choose from, got ", route.top_k);
}

}  // namespace

Route check_moe_route(const RouteArgs& args) {
  const Array& logits = args.logits;
  THRIFTY_CHECK(is_floating(logits.dtype), kOp,
                ": logits: expected float32, bfloat16, float16 or float64, got ",
                dtype_name(logits.dtype));
  constexpr int64_t kMax = int64_t(1) << 31;
  THRIFTY_CHECK(logits.ndim == 2 && logits.shape[1] >= 1 && logits.shape[1] < kMax, kOp,
                ": logits: expected shape (T, E) with 1 to 2^31 - 1 experts, got ",
                shape_text(logits));
  Route route{.logits = logits, .bias = args.bias, .mask = args.mask};
  route.tokens = logits.shape[0], route.experts = logits.shape[1], route.top_k = args.top_k;
  route.score = parse_score(args.score);
  route.renorm = args.renorm && route.score != Score::kTopkSoftmax;
  route.scale = args.scale, route.threshold = args.threshold;
  THRIFTY_CHECK(std::isfinite(args.scale), kOp, ": scale: expected a finite number, got ",
                args.scale);
  route.n_group = args.n_group, route.topk_group = args.topk_group;
  route.group_topn = args.group_topn;
  check_groups(route);
  const auto per_expert = [&](const char* name, const Array& a, Dtype dtype) {
    if (!a) return;
    THRIFTY_CHECK(a.ndim == 1 && a.shape[0] == route.experts, kOp, ": ", name,
                  ": expected shape (E,) = (", route.experts, ",), got ", shape_text(a));
    THRIFTY_CHECK(a.dtype == dtype, kOp, ": ", name, ": expected ", dtype_name(dtype), ", got ",
                  dtype_name(a.dtype));
  };
  per_expert("bias", route.bias, route.wide());
  per_expert("expert_mask", route.mask, Dtype::kUInt8);
  return route;
}

}  // namespace thrifty::moe
