#include "core/error.h"
#include "ensemble/mlp.h"

namespace thrifty::ensemble {
namespace {

const std::string kOp = "batch_ensemble_mlp";

Array optional(const Array& a) { return a && a.numel() == 0 ? Array{} : a; }

Reduce parse_reduce(std::string_view name) {
  if (name == "none") return Reduce::kNone;
  if (name == "mean") return Reduce::kMean;
  THRIFTY_CHECK(name == "softmax_mean", kOp, ": reduce: expected none, mean or softmax_mean, got ",
                name);
  return Reduce::kSoftmaxMean;
}

int64_t members(const MlpArgs& args) {
  for (const auto* list : {&args.r, &args.s, &args.bias}) {
    for (const Array& a : *list) {
      if (a.numel() > 0 && a.ndim == 2) return a.shape[0];
    }
  }
  if (args.head_weight && args.head_weight.ndim == 3) return args.head_weight.shape[0];
  return args.x.ndim == 3 ? args.x.shape[1] : 0;
}

void check_packed(const MlpArgs& args, size_t i, Layer& layer) {
  if (args.packed.empty()) return;
  const Array& packed = args.packed[i];
  const int64_t bytes = packed_weight_bytes(layer.dtype, layer.in, layer.out);
  THRIFTY_CHECK(packed.dtype == Dtype::kUInt8 && packed.ndim == 1 && packed.numel() == bytes, kOp,
                ": packed[", i, "]: expected pack_weight(weight[", i, "]), ", bytes, " bytes, got ",
                dtype_name(packed.dtype), " ", shape_text(packed));
  layer.packed_weight = packed.data;
}

void check_head(const MlpArgs& args, Mlp& mlp) {
  const Layer& last = mlp.layers.back();
  mlp.head_weight = args.head_weight;
  mlp.head_bias = args.head_bias;
  if (!mlp.has_head()) {
    THRIFTY_CHECK(!mlp.head_bias, kOp, ": head_bias: expected None without head_weight, got ",
                  shape_text(args.head_bias));
    THRIFTY_CHECK(mlp.reduce == Reduce::kNone, kOp,
                  ": reduce: expected none without head_weight, got another");
    return;
  }
  const Array& w = mlp.head_weight;
  THRIFTY_CHECK(w.dtype == last.dtype, kOp, ": head_weight: expected ", dtype_name(last.dtype),
                " like x, got ", dtype_name(w.dtype));
  THRIFTY_CHECK(w.ndim == 3 && w.shape[0] == last.map.k && w.shape[1] == last.out, kOp,
                ": head_weight: expected shape (k, in, out) with k = ", last.map.k,
                ", in = ", last.out, ", got ", shape_text(w));
  mlp.head_out = w.shape[2];
  const Array& b = mlp.head_bias;
  if (!b) return;
  THRIFTY_CHECK(b.dtype == last.dtype || (is_half(last.dtype) && b.dtype == Dtype::kFloat32), kOp,
                ": head_bias: expected ", dtype_name(last.dtype), " like x, got ",
                dtype_name(b.dtype));
  THRIFTY_CHECK(b.ndim == 2 && b.shape[0] == last.map.k && b.shape[1] == mlp.head_out, kOp,
                ": head_bias: expected shape (k, out) = (", last.map.k, ", ", mlp.head_out,
                "), got ", shape_text(b));
}

}  // namespace

std::vector<int64_t> Mlp::out_shape() const {
  const RowMap& map = layers[0].map;
  if (reduce != Reduce::kNone) return {map.rows / map.k, width()};
  return {map.rows / map.k, map.k, width()};
}

Mlp check_batch_ensemble_mlp(const MlpArgs& args) {
  const size_t depth = args.weight.size();
  THRIFTY_CHECK(depth > 0, kOp, ": weight: expected at least one layer, got none");
  for (const auto& [name, list] : {std::pair{"r", &args.r}, {"s", &args.s}, {"bias", &args.bias}}) {
    THRIFTY_CHECK(list->size() == depth, kOp, ": ", name, ": expected one entry per weight, ",
                  depth, ", got ", list->size());
  }
  THRIFTY_CHECK(args.packed.empty() || args.packed.size() == depth, kOp,
                ": packed: expected none or one entry per weight, ", depth, ", got ",
                args.packed.size());
  Mlp mlp;
  mlp.reduce = parse_reduce(args.reduce);
  const int64_t k = members(args);
  for (size_t i = 0; i < depth; ++i) {
    LayerArgs layer{.op = concat(kOp, ": layer ", i),
                    .x = args.x,
                    .weight = args.weight[i],
                    .r = optional(args.r[i]),
                    .s = optional(args.s[i]),
                    .bias = optional(args.bias[i]),
                    .activation = args.activation,
                    .k = k};
    if (i > 0) {  // reads what the layer before wrote
      const Layer& before = mlp.layers.back();
      layer.x = {.dtype = before.dtype, .ndim = 3, .shape = {before.rows() / k, k, before.out}};
    }
    mlp.layers.push_back(check_batch_ensemble_linear(layer));
    check_packed(args, i, mlp.layers.back());
  }
  check_head(args, mlp);
  return mlp;
}

}  // namespace thrifty::ensemble
