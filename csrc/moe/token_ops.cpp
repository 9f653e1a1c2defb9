// torch.ops.thrifty.*: tokens that leave their sequences and come back, on the CPU.
#include "moe/token_ops.h"

namespace thrifty::moe::ops {
namespace {

struct Cpu : edge::CpuTensors {
  static void topk(const TokenTopk& topk, const Tensor&, void* weights, int64_t* index) {
    moe::token_topk(topk, weights, index, edge::torch_threads);
  }
  static void gather(const TokenRowsOp& op, const Tensor&, void* out) {
    moe::gather_rows(op, out, edge::torch_threads);
  }
  static void scatter(const TokenRowsOp& op, const Tensor&, void* out) {
    moe::scatter_add_rows(op, out, edge::torch_threads);
  }
};

}  // namespace
}  // namespace thrifty::moe::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def("token_topk(Tensor scores, int k) -> (Tensor weights, Tensor index)");
  m.def("gather_rows(Tensor x, Tensor index, Tensor? weights) -> Tensor");
  m.def("scatter_add_rows(Tensor x, Tensor index, Tensor src, Tensor? weights) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) { THRIFTY_IMPL_TOKEN_OPS(m, thrifty::moe::ops::Cpu); }
