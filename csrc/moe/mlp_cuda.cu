// The layer on CUDA, as launches of the grouped products (C: combine, elementwise: mlp_sums.cuh):
//
//   forward    order   Z, A = phi(W1 x)    Y = W2 A    y = sum of w Y
//   backward   order   dZ, s A, ds from dA' = W2^T dO  (Z again where it was not kept)
//              dw      dx = sum of W1^T dZ             dW1, dW2, db1, db2
//
// What no wanted gradient needs is not launched.
#include "moe/mlp_cuda.h"

#include "core/scratch_arena.h"
#include "moe/grouped_launch.h"
#include "moe/mlp_sums.cuh"
#include "moe/permute_cuda.h"

namespace thrifty::moe::cuda {
namespace {

const std::string kOp = "moe_mlp";

// One launch after the other until one fails.
struct Sequence {
  Status status;
  template <class Start>
  void then(const char* kernel, const Start& start) {
    if (status.ok()) status = {start(), kernel};
  }
};

class Layer {
 public:
  Layer(const Mlp& mlp, void* scratch, cudaStream_t stream)
      : mlp_(mlp), arena_(scratch), stream_(stream) {
    const int64_t slots = mlp.slots();
    order_ = take<int32_t>(slots), inverse_ = take<int32_t>(slots);
    offsets_ = take<int32_t>(mlp.experts + 1);
    permute_scratch_ = arena_.take(moe_permute_scratch(mlp.permute));
    groups_ = {offsets_ + 1, Dtype::kInt32, int(mlp.experts), int(slots)};
  }

  void plan_forward() {
    a_ = take_rows(mlp_.inner);
    y_ = take_rows(mlp_.hidden);
  }

  void plan_backward(bool has_z, const MlpGrads& grads) {
    grads_ = grads;
    if (grads.w1 != nullptr || grads.w2 != nullptr || grads.b2 != nullptr) {
      token_ = take<int32_t>(mlp_.slots());
    }
    if (!upwards()) return;
    if (!has_z) z_ = take_rows(mlp_.up_rows());
    if (grads.x != nullptr || grads.w1 != nullptr || grads.b1 != nullptr) {
      dz_ = take_rows(mlp_.up_rows());
    }
    if (grads.w2 != nullptr) a_ = take_rows(mlp_.inner);
    if (grads.weights != nullptr)
      ds_ = arena_.take(ds_tiles() * mlp_.slots() * (mlp_.dtype == Dtype::kFloat64 ? 8 : 4));
    if (grads.x != nullptr) y_ = take_rows(mlp_.hidden);
  }
  int64_t scratch_bytes() const { return arena_.used(); }

  Status forward(void* out, void* z) {
    permute();
    up(z, a_);
    RowsArgs args = rows_args(a_, mlp_.inner, group_weights(mlp_.w2, false));
    args.finish = store_rows(y_, mlp_.hidden);
    set_bias(args.finish, mlp_.b2);
    products("moe_mlp_down", args);
    combine(out, {mlp_.weights.data, mlp_.weights.dtype});
    return run_.status;
  }

  Status backward(const void* grad, const void* z) {
    grad_ = grad;
    permute();
    if (token_ != nullptr) {
      run_.then("moe_tokens", [&] {
        return launch_tokens({order_, token_, mlp_.slots(), int(mlp_.top_k)}, stream_);
      });
    }
    if (upwards()) {
      if (z == nullptr) up(z_, nullptr);
      up_grad(z == nullptr ? z_ : const_cast<void*>(z));
    }
    if (grads_.weights != nullptr) weight_grads();
    if (grads_.x != nullptr) x_grad();
    matrix_grads();
    if (grads_.b1 != nullptr) group_sums(dz_, nullptr, {}, mlp_.up_rows(), mlp_.b1, grads_.b1);
    if (grads_.b2 != nullptr) group_sums(grad_, token_, scale(), mlp_.hidden, mlp_.b2, grads_.b2);
    return run_.status;
  }

 private:
  template <class T>
  T* take(int64_t count) {
    return static_cast<T*>(arena_.take(count * int64_t(sizeof(T))));
  }
  void* take_rows(int64_t width) {
    return arena_.take(mlp_.slots() * width * dtype_size(mlp_.dtype));
  }
  bool upwards() const {
    return grads_.x != nullptr || grads_.w1 != nullptr || grads_.b1 != nullptr ||
           grads_.w2 != nullptr || grads_.weights != nullptr;
  }
  int64_t ds_tiles() const { return ceil_div(mlp_.inner, kDotColumns); }
  Numbers scale() const { return {mlp_.weights.data, mlp_.weights.dtype}; }

  void permute() {
    run_.status =
        cuda::moe_permute(mlp_.permute, order_, offsets_, inverse_, permute_scratch_, stream_);
  }

  void products(const char* kernel, const RowsArgs& args) {
    run_.then(kernel, [&] { return launch_rows(mlp_.dtype, args, stream_); });
  }

  // Rows that lie in sorted order.
  RowsArgs rows_args(const void* data, int64_t width, const GroupWeights& weights) const {
    RowsArgs args;
    args.a = row_source(mlp_.dtype, data, mlp_.slots(), width, width);
    args.b = weights, args.groups = groups_;
    return args;
  }
  // Rows of tokens.
  RowsArgs token_args(const void* data, int64_t stride, const GroupWeights& weights) const {
    RowsArgs args;
    args.a = row_source(mlp_.dtype, data, mlp_.tokens, mlp_.hidden, stride);
    args.a.index = order_, args.a.per_token = int(mlp_.top_k);
    args.b = weights, args.groups = groups_;
    return args;
  }

  RowFinish store_rows(void* out, int64_t columns) const {
    RowFinish finish;
    finish.columns = int(columns), finish.out = out;
    finish.pairs = even_rows(mlp_.dtype, out, {columns});
    return finish;
  }
  void set_bias(RowFinish& finish, const Array& bias) const {
    if (!bias) return;
    finish.bias = {bias.data, bias.dtype};
    finish.bias_width = int(bias.shape[1]);
  }
  RowFinish neurons(Finish kind, void* z, void* a) const {
    RowFinish finish;
    finish.kind = kind, finish.columns = int(mlp_.inner);
    finish.phi = mlp_.phi;
    finish.interleaved = mlp_.interleaved;
    finish.z = z, finish.a = a, finish.dz = dz_;
    finish.pairs = even_rows(mlp_.dtype, z, {mlp_.inner});
    return finish;
  }

  void up(void* z, void* a) {
    const bool halves = mlp_.phi.gated && !mlp_.interleaved;
    RowsArgs args = token_args(mlp_.x.data, mlp_.x.strides[0], group_weights(mlp_.w1, halves));
    args.finish = neurons(Finish::kUp, z, a);
    set_bias(args.finish, mlp_.b1);
    products("moe_mlp_up", args);
  }

  void up_grad(void* z) {
    RowsArgs args = token_args(grad_, mlp_.hidden, group_weights(mlp_.w2.swapped(), false));
    args.finish = neurons(Finish::kUpGrad, z, a_);
    args.finish.scale = scale(), args.finish.scale_index = order_;
    args.finish.ds = ds_;
    products("moe_mlp_up_grad", args);
  }

  void weight_grads() {
    WeightGrads args{.ds = ds_, .tiles = int(ds_tiles()), .order = order_, .groups = groups_};
    args.top_k = int(mlp_.top_k);
    args.dtype = mlp_.dtype, args.d_out = grad_, args.width = int(mlp_.hidden);
    if (mlp_.b2) args.b2 = {mlp_.b2.data, mlp_.b2.dtype};
    args.out = grads_.weights, args.out_dtype = mlp_.weights.dtype;
    run_.then("moe_weight_grads", [&] { return launch_weight_grads(args, stream_); });
  }

  void x_grad() {
    RowsArgs args = rows_args(dz_, mlp_.up_rows(), group_weights(mlp_.w1.swapped(), false));
    args.finish = store_rows(y_, mlp_.hidden);
    products("moe_mlp_x_grad", args);
    combine(grads_.x, {});
  }

  void combine(void* out, const Numbers& weights) {
    Combine args{.dtype = mlp_.dtype, .y = y_, .out = out, .inverse = inverse_, .groups = groups_};
    args.weights = weights, args.tokens = mlp_.tokens;
    args.top_k = int(mlp_.top_k), args.width = int(mlp_.hidden);
    const int full = 16 / int(dtype_size(mlp_.dtype));
    args.vectors = access_width(mlp_.dtype, y_, {mlp_.hidden}) == full &&
                   access_width(mlp_.dtype, out, {mlp_.hidden}) == full;
    run_.then("moe_combine", [&] { return launch_combine(args, stream_); });
  }

  // dW1 = dZ^T x and dW2 = dO^T (s A); of transposed weights the other way round.
  void matrix_grads() {
    const auto run = [&](const DepthRows& left, const DepthRows& right, void* out) {
      if (out == nullptr) return;
      DepthArgs args{mlp_.transposed ? right : left, mlp_.transposed ? left : right, groups_, out};
      args.vector = access_width(mlp_.dtype, out, {args.b.width}) >= 4;
      run_.then("moe_mlp_weight_grad", [&] { return launch_depth(mlp_.dtype, args, stream_); });
    };
    run(depth_rows(dz_, mlp_.up_rows(), mlp_.up_rows(), nullptr),
        depth_rows(mlp_.x.data, mlp_.hidden, mlp_.x.strides[0], token_), grads_.w1);
    run(depth_rows(grad_, mlp_.hidden, mlp_.hidden, token_),
        depth_rows(a_, mlp_.inner, mlp_.inner, nullptr), grads_.w2);
  }
  DepthRows depth_rows(const void* data, int64_t width, int64_t stride, const int32_t* rows) const {
    return {data, stride, int(width), access_width(mlp_.dtype, data, {width, stride}), rows};
  }

  void group_sums(const void* x, const int32_t* rows, const Numbers& by, int64_t width,
                  const Array& like, void* out) {
    GroupSums args{.dtype = mlp_.dtype, .x = x, .rows = rows, .scale = by, .order = order_};
    args.groups = groups_, args.width = int(width);
    args.out = out, args.out_dtype = like.dtype;
    run_.then("moe_group_sums", [&] { return launch_group_sums(args, stream_); });
  }

  const Mlp& mlp_;
  ScratchArena arena_;
  cudaStream_t stream_;
  Sequence run_;
  Groups groups_;
  MlpGrads grads_;
  int32_t *order_ = nullptr, *inverse_ = nullptr, *offsets_ = nullptr, *token_ = nullptr;
  void* permute_scratch_ = nullptr;
  void *z_ = nullptr, *a_ = nullptr, *y_ = nullptr, *dz_ = nullptr, *ds_ = nullptr;
  const void* grad_ = nullptr;
};

}  // namespace

void check_mlp(const Mlp& mlp) {
  check_size(kOp, "x: columns", mlp.hidden);
  check_size(kOp, "w1: rows", mlp.up_rows());
  check_size(kOp, "ids: slots", mlp.slots());
  check_size(kOp, "w1: experts", mlp.experts);
}

int64_t moe_mlp_fwd_scratch(const Mlp& mlp) {
  Layer layer(mlp, nullptr, nullptr);
  layer.plan_forward();
  return layer.scratch_bytes();
}

Status moe_mlp_fwd(const Mlp& mlp, void* out, void* z, void* scratch, cudaStream_t stream) {
  Layer layer(mlp, scratch, stream);
  layer.plan_forward();
  return layer.forward(out, z);
}

int64_t moe_mlp_bwd_scratch(const Mlp& mlp, bool has_z, const MlpGrads& grads) {
  Layer layer(mlp, nullptr, nullptr);
  layer.plan_backward(has_z, grads);
  return layer.scratch_bytes();
}

Status moe_mlp_bwd(const Mlp& mlp, const void* grad, const void* z, const MlpGrads& grads,
                   void* scratch, cudaStream_t stream) {
  Layer layer(mlp, scratch, stream);
  layer.plan_backward(z != nullptr, grads);
  return layer.backward(grad, z);
}

}  // namespace thrifty::moe::cuda
