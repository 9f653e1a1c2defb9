// torch.ops.thrifty.*: drafts and their verification on CUDA. What is wrong with a sequence is told
// by its status; looking at it here would wait for the device.
#include "drafting/ngram_cuda.h"
#include "drafting/ngram_ops.h"
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

  static cuda::DeviceTable device_table(const TableTensor& table) {
    return {table.data(),    table.capacity,      table.k, table.n_min, table.n_max,
            table.count_cap, uint64_t(table.seed)};
  }
  static void update(const TableTensor& table, const Array& tails, const Array& lens,
                     const Array& ids, const Array& probs) {
    const NgramLimits limits(table.n_max);
    const Contexts contexts = check_contexts("update", limits, tails, lens, 0);
    const Followers followers = check_followers(limits, ids, probs, contexts.rows);
    if (contexts.rows == 0) return;
    const cuda::DeviceTable device = device_table(table);
    edge::run_on(table.region, cuda::ngram_update_scratch(device, contexts.rows),
                 [&](void* scratch, cudaStream_t stream) {
                   return cuda::ngram_update(device, contexts, followers, scratch, stream);
                 });
  }
  static void draft(const TableTensor& table, const Array& tails, const Array& lens,
                    const int32_t* child_begin, const int32_t* child_count, int64_t nodes,
                    const DraftSettings& settings, const DraftArrays& out) {
    const Contexts contexts = check_contexts("draft", NgramLimits(table.n_max), tails, lens, 1);
    if (contexts.rows == 0) return;
    edge::run_on(table.region, 0, [&](void*, cudaStream_t stream) {
      return cuda::ngram_draft(device_table(table), contexts, child_begin, child_count, nodes,
                               settings, out, stream);
    });
  }
};

}  // namespace
}  // namespace thrifty::drafting::ops

STABLE_TORCH_LIBRARY_IMPL(thrifty, CUDA, m) {
  THRIFTY_IMPL_VERIFY_OPS(m, thrifty::drafting::ops::Cuda);
  THRIFTY_IMPL_NGRAM_OPS(m, thrifty::drafting::ops::Cuda);
}
