// Forward of a batch-ensemble or packed layer on CUDA: fills in the kernel's arguments.
#include "ensemble/linear_cuda.h"

#include "core/error.h"
#include "ensemble/layer_operands.h"
#include "ensemble/linear_launch.h"

namespace thrifty::ensemble::cuda {
namespace {

cudaError_t launch_fwd(const Layer& layer, const FwdArgs& args, cudaStream_t stream) {
  const int rows = args.rows.rows.of(0);
  const bool small = prefers_small_tiles(rows, args.rows.width, args.members);
  switch (layer.dtype) {
    case Dtype::kBFloat16: return launch_fwd_bf16(args, layer.packed, small, stream);
    case Dtype::kFloat16: return launch_fwd_fp16(args, layer.packed, small, stream);
    case Dtype::kFloat32: return launch_fwd_float(args, layer.packed, small, stream);
    default: return launch_fwd_double(args, layer.packed, stream);
  }
}

}  // namespace

void check_counts(const std::string& op, const Layer& layer) {
  constexpr int64_t kMax = int64_t(1) << 30;
  const auto check = [&](const char* what, int64_t count) {
    THRIFTY_CHECK(count <= kMax, op, ": ", what, ": expected at most 2^30 on CUDA, got ", count);
  };
  check("x: rows of one member", layer.map.max_samples());
  check("k", layer.map.k);
  check("weight: in", layer.in);
  check("weight: out", layer.out);
}

Status linear_fwd(const Layer& given, void* out, void* z, cudaStream_t stream) {
  if (given.rows() == 0 || given.out == 0) return {};
  const Layer layer = simplified(given);
  return {launch_fwd(layer, fwd_args(layer, out, z), stream), "linear_fwd"};
}

}  // namespace thrifty::ensemble::cuda
