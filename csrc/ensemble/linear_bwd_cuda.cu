// Backward of a batch-ensemble or packed layer on CUDA: at most three passes over the rows.
//
//   dz      once, with the sums over rows for dr', dbias, ds             linear_dz.cu
//   dx, dr  g = dz W, times r, summed over members when x is shared      linear_grad.cuh
//   dW      dz^T x, times r (and dr too, where nobody asks for dx)       linear_grad.cuh
//
// Sums that several blocks share go through partial sums in scratch memory; how many depends on the
// shapes alone, so results do not depend on the device.
#include <vector>

#include "core/scratch_arena.h"
#include "ensemble/layer_operands.h"
#include "ensemble/linear_cuda.h"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {
namespace {

// A split of the samples should still be long beside the tile that it stores.
constexpr int64_t kMinDepth = 256, kDepthStep = 32;

struct Plan {
  bool dz = false, dx = false, dw = false;
  DzArgs dz_args;
  GradArgs dx_args, dw_args;
  std::vector<PartialSums> dz_sums, dx_sums, dw_sums;
};

class Planner {
 public:
  Planner(const Layer& given, const void* grad, const void* z, const LayerGrads& grads, void* base,
          int64_t blocks)
      : layer_(simplified(given)),
        grad_(grad),
        z_(z),
        grads_(grads),
        enough_blocks_(blocks),
        arena_(base) {}

  Plan plan() {
    const bool dr_from_dw = grads_.r != nullptr && grads_.x == nullptr;
    plan_.dx = grads_.x != nullptr;
    plan_.dw = grads_.weight != nullptr || dr_from_dw;
    plan_dz();
    if (plan_.dx) plan_dx(grads_.r != nullptr);
    if (plan_.dw) plan_dw(dr_from_dw);
    return std::move(plan_);
  }
  int64_t scratch_bytes() const { return arena_.used(); }

 private:
  bool wide() const { return layer_.dtype == Dtype::kFloat64; }
  void* take_sums(int64_t count) { return arena_.take(count * (wide() ? 8 : 4)); }

  void plan_dz() {
    const bool same = layer_.activation == Activation::kNone && !layer_.s && !layer_.r_next &&
                      !layer_.dropout.enabled();
    DzArgs& args = plan_.dz_args;
    args.rows = row_args(layer_);
    args.grad = grad_, args.z = z_;
    args.members = int(layer_.map.k);
    dz_ = grad_;
    if (!same && (plan_.dx || plan_.dw)) {
      plan_.dz = true;
      dz_ = args.dz = arena_.take(layer_.rows() * layer_.out * dtype_size(layer_.dtype));
    }
    const auto pairs = [&](const void* data) {
      return access_width(layer_.dtype, data, args.rows.at, layer_.out) >= 2;
    };
    args.rows.pairs = pairs(grad_) && pairs(z_) && pairs(args.dz);
    args.dr_next = row_sums(grads_.r_next, layer_.r_next);
    args.dbias = row_sums(grads_.bias, layer_.bias);
    args.ds = row_sums(grads_.s, layer_.s);
  }

  // Partial sums of linear_dz.cu for one vector's gradient; a bias of (out,) sums over members too.
  void* row_sums(void* out, const Array& vector) {
    if (out == nullptr) return nullptr;
    plan_.dz = true;
    const int64_t k = layer_.map.k, chunks = ceil_div(layer_.map.max_samples(), kDzRows);
    void* const partial = take_sums(chunks * k * layer_.out);
    const bool shared = vector.ndim == 1;
    plan_.dz_sums.push_back({partial, out, shared ? layer_.out : k * layer_.out,
                             shared ? chunks * k : chunks, wide(), vector.dtype});
    return partial;
  }

  void plan_dx(bool with_dr) {
    const Layer layer = !layer_.r && uniform_rows(layer_) ? as_one_member(layer_) : layer_;
    GradArgs& args = plan_.dx_args;
    args.product = {
        sample_matrix(layer, dz_, layer.out), weight_matrix(layer), {int(layer.out)}, {}};
    args.members = int(layer.map.k);
    args.units = layer.shared_x ? 1 : args.members;
    args.rows = layer.shared_x ? RowCount{int(layer.map.max_samples())} : sample_count(layer.map);
    args.columns = int(layer.in);
    args.depth_chunk = int(layer.out);
    args.at = layer.shared_x ? RowAddress{layer.in} : sample_rows(layer.map, layer.in);
    if (layer.shared_x) args.member_splits = int(std::min<int64_t>(args.members, splits(args)));
    finish(args, layer, x_matrix(layer), with_dr, grads_.x, layer.dtype, plan_.dx_sums);
  }

  void plan_dw(bool with_dr) {
    const Layer layer = !layer_.r && uniform_rows(layer_) ? as_one_member(layer_) : layer_;
    const Matrix dz = sample_matrix(layer, dz_, layer.out), x = x_matrix(layer);
    GradArgs& args = plan_.dw_args;
    args.product = {layer.packed ? x : dz, layer.packed ? dz : x, sample_count(layer.map), {}};
    args.members = int(layer.map.k);
    args.units = layer.packed ? args.members : 1;
    args.rows = {int(layer.packed ? layer.in : layer.out)};
    args.columns = int(layer.packed ? layer.out : layer.in);
    args.at = {args.columns, int64_t(args.columns) * args.rows.full, 0, 1};
    const int64_t wanted = splits(args), samples = layer.map.max_samples();
    args.member_splits = args.units == 1 ? int(std::min<int64_t>(args.members, wanted)) : 1;
    const int64_t cuts =
        std::min(ceil_div(wanted, args.member_splits), std::max<int64_t>(1, samples / kMinDepth));
    args.depth_chunk = int(round_up(ceil_div(samples, cuts), kDepthStep));
    args.depth_splits = int(ceil_div(samples, args.depth_chunk));
    finish(args, layer, weight_matrix(layer), with_dr, grads_.weight, layer.dtype, plan_.dw_sums);
  }

  // How often the sums of a result are cut to keep the device busy.
  int64_t splits(const GradArgs& args) const {
    const int64_t size = grad_tile(dtype_size(layer_.dtype));
    const int64_t blocks = ceil_div(args.rows.of(0), size) * ceil_div(args.columns, size);
    return std::max<int64_t>(1, enough_blocks_ / std::max<int64_t>(1, blocks * args.units));
  }

  // The result, through partial sums where it was cut, and dr.
  void finish(GradArgs& args, const Layer& layer, const Matrix& other, bool with_dr, void* out,
              Dtype dtype, std::vector<PartialSums>& sums) {
    args.r = member_vector(layer, layer.r);
    args.other = other;
    args.out = out;
    const int chunk = wide() ? 2 : 4;
    args.vector = access_width(dtype, out, args.at, args.columns) >= chunk;
    if (args.splits() > 1 && out != nullptr) {
      const int64_t n = int64_t(args.units) * args.rows.full * args.columns;
      args.partial = take_sums(n * args.splits());
      args.vector = args.columns % chunk == 0;
      sums.push_back({args.partial, out, n, args.splits(), wide(), dtype});
    }
    if (with_dr) {
      const int64_t tiles_m = ceil_div(args.rows.of(0), grad_tile(dtype_size(layer.dtype)));
      const int64_t slots = args.depth_splits * tiles_m;
      args.dr = take_sums(slots * args.members * args.columns);
      sums.push_back(
          {args.dr, grads_.r, int64_t(args.members) * args.columns, slots, wide(), layer.r.dtype});
    }
  }

  const Layer layer_;
  const void *grad_, *z_, *dz_ = nullptr;
  const LayerGrads grads_;
  const int64_t enough_blocks_;
  ScratchArena arena_;
  Plan plan_;
};

cudaError_t launch_dx(Dtype dtype, const GradArgs& args, bool packed, cudaStream_t stream) {
  const bool small = prefers_small_tiles(args.rows.of(0), args.columns, args.units);
  switch (dtype) {
    case Dtype::kBFloat16: return launch_dx_bf16(args, packed, small, stream);
    case Dtype::kFloat16: return launch_dx_fp16(args, packed, small, stream);
    case Dtype::kFloat32: return launch_dx_float(args, packed, small, stream);
    default: return launch_dx_double(args, packed, stream);
  }
}

cudaError_t launch_dw(Dtype dtype, const GradArgs& args, cudaStream_t stream) {
  switch (dtype) {
    case Dtype::kBFloat16: return launch_dw_bf16(args, stream);
    case Dtype::kFloat16: return launch_dw_fp16(args, stream);
    case Dtype::kFloat32: return launch_dw_float(args, stream);
    default: return launch_dw_double(args, stream);
  }
}

// No rows: every sum is over nothing.
std::vector<PartialSums> zero_grads(const Layer& layer, const LayerGrads& grads) {
  std::vector<PartialSums> zeros;
  const auto zero = [&](void* out, int64_t n, Dtype dtype) {
    if (out != nullptr) zeros.push_back({nullptr, out, n, 0, dtype == Dtype::kFloat64, dtype});
  };
  zero(grads.weight, (layer.packed ? layer.map.k : 1) * layer.in * layer.out, layer.dtype);
  zero(grads.r, layer.map.k * layer.in, layer.r.dtype);
  zero(grads.s, layer.map.k * layer.out, layer.s.dtype);
  zero(grads.bias, layer.bias ? layer.bias.numel() : 0, layer.bias.dtype);
  zero(grads.r_next, layer.map.k * layer.out, layer.r_next.dtype);
  return zeros;
}

}  // namespace

int64_t linear_bwd_scratch(const Layer& layer, const LayerGrads& grads, int64_t blocks) {
  if (layer.rows() == 0) return 0;
  Planner planner(layer, nullptr, nullptr, grads, nullptr, blocks);
  planner.plan();
  return planner.scratch_bytes();
}

Status linear_bwd(const Layer& layer, const void* grad, const void* z, const LayerGrads& grads,
                  void* scratch, cudaStream_t stream, int64_t blocks) {
  Status status;
  const auto then = [&](const char* kernel, auto start) {
    if (status.ok()) status = {start(), kernel};
  };
  const auto add = [&](const std::vector<PartialSums>& all) {
    for (const PartialSums& sums : all) {
      then("partial_sums", [&] { return launch_partial_sums(sums, stream); });
    }
  };
  if (layer.rows() == 0) {
    add(zero_grads(layer, grads));
    return status;
  }
  const Plan plan = Planner(layer, grad, z, grads, scratch, blocks).plan();
  const Dtype dtype = layer.dtype;
  if (plan.dz) then("linear_dz", [&] { return launch_dz(dtype, plan.dz_args, stream); });
  add(plan.dz_sums);
  if (plan.dx) {
    then("linear_dx", [&] { return launch_dx(dtype, plan.dx_args, layer.packed, stream); });
  }
  add(plan.dx_sums);
  if (plan.dw) then("linear_dw", [&] { return launch_dw(dtype, plan.dw_args, stream); });
  add(plan.dw_sums);
  return status;
}

}  // namespace thrifty::ensemble::cuda
