#include <cmath>
#include <limits>

#include "core/error.h"
#include "moe/mlp.h"

namespace thrifty::moe {
namespace {

const std::string kOp = "moe_mlp";

struct Named {
  const char* name;
  Gate gate;
  bool gated;
  bool uses_limit;
};
constexpr Named kActivations[] = {
    {"swiglu", Gate::kSilu, true, false},         {"geglu", Gate::kGelu, true, false},
    {"geglu_tanh", Gate::kGeluTanh, true, false}, {"reglu", Gate::kRelu, true, false},
    {"swiglu_clamp", Gate::kSilu, true, true},    {"swiglu_oai", Gate::kOai, true, true},
    {"silu", Gate::kSilu, false, false},          {"gelu", Gate::kGelu, false, false},
    {"gelu_tanh", Gate::kGeluTanh, false, false}, {"relu", Gate::kRelu, false, false},
    {"relu2", Gate::kRelu2, false, false},
};

Phi parse_phi(const MlpArgs& args) {
  for (const Named& named : kActivations) {
    if (args.activation != named.name) continue;
    const double inf = std::numeric_limits<double>::infinity();
    THRIFTY_CHECK(!named.uses_limit || args.limit > 0, kOp,
                  ": limit: expected a positive number, got ", args.limit);
    THRIFTY_CHECK(std::isfinite(args.alpha), kOp, ": alpha: expected a finite number, got ",
                  args.alpha);
    return {named.gate, named.gated, args.alpha, named.uses_limit ? args.limit : inf};
  }
  fail(kOp,
       ": activation: expected swiglu, geglu, geglu_tanh, reglu, swiglu_clamp, swiglu_oai, silu, "
       "gelu, gelu_tanh, relu or relu2, got ",
       args.activation);
}

void check_matrix(const char* name, const Array& w, const Array& x, int64_t experts, int64_t n,
                  int64_t k, bool transposed, const char* shape) {
  THRIFTY_CHECK(w.dtype == x.dtype, kOp, ": ", name, ": expected ", dtype_name(x.dtype),
                " like x, got ", dtype_name(w.dtype));
  const int64_t rows = transposed ? k : n, columns = transposed ? n : k;
  THRIFTY_CHECK(w.ndim == 3 && w.shape[0] == experts && w.shape[1] == rows && w.shape[2] == columns,
                kOp, ": ", name, ": expected shape ", shape, " = (", experts, ", ", rows, ", ",
                columns, "), got ", shape_text(w));
}

void check_bias(const char* name, const Array& b, Dtype dtype, int64_t experts, int64_t n) {
  if (!b) return;
  THRIFTY_CHECK(b.ndim == 2 && b.shape[0] == experts && b.shape[1] == n, kOp, ": ", name,
                ": expected shape (", experts, ", ", n, "), got ", shape_text(b));
  THRIFTY_CHECK(b.dtype == dtype || (is_half(dtype) && b.dtype == Dtype::kFloat32), kOp, ": ", name,
                ": expected ", dtype_name(dtype), " like x", is_half(dtype) ? " or float32" : "",
                ", got ", dtype_name(b.dtype));
}

void check_routing(const MlpArgs& args, Mlp& mlp) {
  const Array &ids = args.ids, &weights = args.weights;
  THRIFTY_CHECK(ids.dtype == Dtype::kInt32 || ids.dtype == Dtype::kInt64, kOp,
                ": ids: expected int32 or int64, got ", dtype_name(ids.dtype));
  THRIFTY_CHECK(ids.ndim == 2 && ids.shape[0] == mlp.tokens, kOp,
                ": ids: expected shape (T, K) with T = ", mlp.tokens, ", got ", shape_text(ids));
  THRIFTY_CHECK(weights.ndim == 2 && weights.shape == ids.shape, kOp,
                ": weights: expected the shape of ids ", shape_text(ids), ", got ",
                shape_text(weights));
  THRIFTY_CHECK(
      weights.dtype == mlp.dtype || (is_half(mlp.dtype) && weights.dtype == Dtype::kFloat32), kOp,
      ": weights: expected ", dtype_name(mlp.dtype), " like x",
      is_half(mlp.dtype) ? " or float32" : "", ", got ", dtype_name(weights.dtype));
  mlp.top_k = ids.shape[1];
  mlp.permute = check_moe_permute(ids, mlp.experts, args.expert_map, 0, {});
  mlp.weights = weights;
}

}  // namespace

Mlp check_moe_mlp(const MlpArgs& args) {
  const Array &x = args.x, &w1 = args.w1;
  THRIFTY_CHECK(is_floating(x.dtype), kOp,
                ": x: expected float32, bfloat16, float16 or float64, got ", dtype_name(x.dtype));
  THRIFTY_CHECK(x.ndim == 2 && x.shape[1] >= 1, kOp, ": x: expected shape (T, H), got ",
                shape_text(x));
  Mlp mlp;
  mlp.dtype = x.dtype, mlp.tokens = x.shape[0], mlp.hidden = x.shape[1], mlp.x = x;
  mlp.transposed = args.transposed;
  mlp.phi = parse_phi(args);
  mlp.interleaved = args.interleaved;
  THRIFTY_CHECK(w1.ndim == 3 && w1.shape[0] >= 1, kOp, ": w1: expected 3 dimensions, got ",
                shape_text(w1));
  mlp.experts = w1.shape[0];
  const int64_t up_rows = w1.shape[args.transposed ? 2 : 1];
  THRIFTY_CHECK(up_rows >= 1 && (!mlp.phi.gated || up_rows % 2 == 0), kOp,
                ": w1: expected an even number of rows, gate and up, got ", shape_text(w1));
  mlp.inner = mlp.phi.gated ? up_rows / 2 : up_rows;
  check_matrix("w1", w1, x, mlp.experts, up_rows, mlp.hidden, args.transposed,
               args.transposed ? "(E, H, rows)" : "(E, rows, H)");
  check_matrix("w2", args.w2, x, mlp.experts, mlp.hidden, mlp.inner, args.transposed,
               args.transposed ? "(E, I, H)" : "(E, H, I)");
  mlp.w1 = weights_of(w1, args.transposed);
  mlp.w2 = weights_of(args.w2, args.transposed);
  check_bias("b1", args.b1, x.dtype, mlp.experts, up_rows);
  check_bias("b2", args.b2, x.dtype, mlp.experts, mlp.hidden);
  mlp.b1 = args.b1, mlp.b2 = args.b2;
  check_routing(args, mlp);
  return mlp;
}

}  // namespace thrifty::moe
