#include <algorithm>

#include "attention/core_call.h"
#include "attention/core_fwd.h"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/element.cuh"
#include "core/product.cuh"

namespace thrifty::attention::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kThreads = 256;

// Rows that see nothing: 0 and -infinity.
__global__ void __launch_bounds__(kThreads)
    core_clear_kernel(Dtype dtype, void* out, int64_t elements, void* lse, int64_t rows) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < elements) store_element(out, dtype, i, 0.0);
  if (i >= rows) return;
  if (dtype == Dtype::kFloat64) {
    static_cast<double*>(lse)[i] = -double(INFINITY);
  } else {
    static_cast<float*>(lse)[i] = -INFINITY;
  }
}

class Forward {
 public:
  Forward(const HyperCall& call, void* scratch)
      : p_(call.hyper.problem),
        width_(int(std::max(p_.d, p_.dv))),
        shape_(fwd_shape(p_.dtype, width_)),
        arena_(scratch),
        core_(call, shape_.rows, shape_.columns, arena_) {
    if (!core_.table().merged) return;
    const int64_t rows = p_.heads() * p_.nq, sum = p_.dtype == Dtype::kFloat64 ? 8 : 4;
    running_.ld = int(round_up(p_.dv, 4));
    running_.sums = arena_.take(rows * running_.ld * sum);
    running_.max = arena_.take(rows * sum), running_.sum = arena_.take(rows * sum);
  }
  int64_t scratch_bytes() const { return arena_.used(); }

  LaunchStatus run(void* out, void* lse, cudaStream_t stream) const {
    LaunchStatus status;
    const int64_t rows = p_.heads() * p_.nq;
    if (rows == 0) return status;
    if (!core_.table().covered) {
      dim3 grid;
      const int64_t blocks = ceil_div(rows * p_.dv, kThreads);
      if (!one_dimensional_grid(blocks, grid)) return {cudaErrorInvalidValue, "core_clear"};
      status = {launch(core_clear_kernel, grid, dim3(kThreads), 0, stream, p_.dtype, out,
                       rows * p_.dv, lse, rows),
                "core_clear"};
    }
    if (status.ok() && !core_.table().parts.empty()) status = core_.prepare(stream);
    for (const Stage& stage : core_.table().stages) {
      if (!status.ok()) break;
      const FwdArgs args{core_.args(), stage.queries, running_, out, lse};
      status = {launch_fwd(p_.dtype, width_, args, stream), "core_fwd"};
    }
    return status;
  }

 private:
  const Problem& p_;
  int width_;
  TileShape shape_;
  ScratchArena arena_;
  CoreCall core_;
  Running running_;
};

}  // namespace

int64_t hyper_fwd_scratch(const HyperCall& call) { return Forward(call, nullptr).scratch_bytes(); }

LaunchStatus hyper_fwd(const HyperCall& call, void* out, void* lse, void* scratch,
                       cudaStream_t stream) {
  return Forward(call, scratch).run(out, lse, stream);
}

}  // namespace thrifty::attention::cuda
