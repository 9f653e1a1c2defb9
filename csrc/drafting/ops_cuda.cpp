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
    THRIFTY_CHECK(tensor.is_cuda() && logits.is_cuda() &&
                      tensor.get_device_index() == logits.get_device_index(),
                  op, ": ", name, ": expected a tensor on the device of logits, ",
                  edge::device_text(logits), ", got one on ", edge::device_text(tensor));
  }

  static void row_stats(const RowStats& call, const Tensor& logits, const RowStatsOut& out) {
    run(logits, cuda::row_stats_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::row_stats(call, out, scratch, stream);
    });
  }
  static void verify_tree(const VerifyTree& call, const Tensor& logits, const VerifyOut& out) {
    run(logits, cuda::verify_tree_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::verify_tree(call, out, scratch, stream);
    });
  }
  static void verify_chain(const VerifyChain& call, const Tensor& logits, const VerifyOut& out) {
    run(logits, cuda::verify_chain_scratch(call), [&](void* scratch, cudaStream_t stream) {
      return cuda::verify_chain(call, out, scratch, stream);
    });
  }

 private:
  template <class Body>
  static void run(const Tensor& logits, int64_t bytes, const Body& body) {
    const edge::CudaScope scope(logits);
    const Tensor scratch = edge::scratch(logits, bytes);
    const cuda::LaunchStatus status = body(edge::data(scratch), scope.stream);
    edge::check_launch(status.kernel, status.error);
  }
};

}  // namespace
}  // namespace thrifty::drafting::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  THRIFTY_IMPL_VERIFY_OPS(m, thrifty::drafting::ops::Cuda);
}
