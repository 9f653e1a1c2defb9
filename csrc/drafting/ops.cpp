// torch.ops.thrifty.*: the drafting family on the CPU.
#include "drafting/verify_ops.h"

namespace thrifty::drafting::ops {
namespace {

struct Cpu {
  static void check(const std::string&, const char*, const Tensor&, const Tensor&) {}
  static void row_stats(const RowStats& call, const Tensor&, const RowStatsOut& out) {
    drafting::row_stats(call, out, edge::torch_threads);
    raise_status("row_stats", out.status, call.logits.rows);
  }
  static void verify_tree(const VerifyTree& call, const Tensor&, const VerifyOut& out) {
    drafting::verify_tree(call, out, edge::torch_threads);
    raise_status("verify_tree", out.status, call.logits.batch);
  }
  static void verify_chain(const VerifyChain& call, const Tensor&, const VerifyOut& out) {
    drafting::verify_chain(call, out, edge::torch_threads);
    raise_status("verify_chain", out.status, call.logits.batch);
  }
};

}  // namespace
}  // namespace thrifty::drafting::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def(
      "row_stats(Tensor logits, Tensor? exclude, Tensor? temperature, Tensor? top_k, Tensor? "
      "top_p, Tensor? min_p, Tensor? seed, Tensor? offset, int k) "
      "-> (Tensor lse, Tensor topk_ids, Tensor topk_probs, Tensor draw, Tensor status)");
  m.def(
      "verify_tree(Tensor logits, Tensor tokens, Tensor first_child, Tensor next_sibling, "
      "Tensor q_ids, Tensor q, Tensor? temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p, "
      "Tensor? seed, Tensor? offset, str rule, int max_depth, int k, bool all_rows) "
      "-> (Tensor tokens, Tensor lengths, Tensor path, Tensor topk_ids, Tensor topk_probs, "
      "Tensor status)");
  m.def(
      "verify_chain(Tensor logits, Tensor tokens, Tensor? lens, Tensor? q_ids, Tensor? q, "
      "Tensor? temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p, Tensor? seed, "
      "Tensor? offset, str method, int k) "
      "-> (Tensor tokens, Tensor lengths, Tensor path, Tensor topk_ids, Tensor topk_probs, "
      "Tensor status)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  THRIFTY_IMPL_VERIFY_OPS(m, thrifty::drafting::ops::Cpu);
}
