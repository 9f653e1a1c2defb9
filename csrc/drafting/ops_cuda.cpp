// torch.ops.thrifty.*: verification of drafts on CUDA. What is wrong with a sequence is told by its
// status; looking at it here would wait for the device.
#include "drafting/verify_cuda.h"
#include "drafting/verify_ops.h"
#include "torch/edge_cuda.h"

namespace thrifty::drafting::ops {
namespace {

struct Cuda {
  static void check(const std::string& op, const char* name, const Tensor& tensor,
                    const Tensor& logits) {
    edge::check_device(op, name, tensor, "logits", logits);
  }

  static void row_stats(const RowStats& call, const Tensor& logits, const RowStatsOut& out) {
    edge::run_on(logits, cuda::row_stats_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::row_stats(call, out, scratch, stream);
    });
  }
  static void verify_tree(const VerifyTree& call, const Tensor& logits, const VerifyOut& out) {
    edge::run_on(logits, cuda::verify_tree_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::verify_tree(call, out, scratch, stream);
    });
  }
  static void verify_chain(const VerifyChain& call, const Tensor& logits, const VerifyOut& out) {
    edge::run_on(logits, cuda::verify_chain_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::verify_chain(call, out, scratch, stream);
    });
  }
};

}  // namespace
}  // namespace thrifty::drafting::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  THRIFTY_IMPL_VERIFY_OPS(m, thrifty::drafting::ops::Cuda);
}
