// torch.ops.thrifty.*: the drafting family on the CPU.
#include "drafting/ngram_ops.h"
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

  static NgramTable table_of(const TableTensor& table) {
    return NgramTable::from_image(table.data(), table.region.numel(), true);
  }
  static void update(const TableTensor& table, const Array& tails, const Array& lens,
                     const Array& ids, const Array& probs) {
    NgramTable borrowed = table_of(table);
    const Contexts contexts = check_contexts("update", borrowed, tails, lens, 0);
    borrowed.update(contexts, check_followers(borrowed, ids, probs, contexts.rows),
                    edge::torch_threads);
  }
  static void draft(const TableTensor& table, const Array& tails, const Array& lens,
                    const int32_t* child_begin, const int32_t* child_count, int64_t nodes,
                    const DraftSettings& settings, const DraftArrays& out) {
    const NgramTable borrowed = table_of(table);
    const Contexts contexts = check_contexts("draft", borrowed, tails, lens, 1);
    std::vector<int32_t> parents(size_t(nodes), -1);
    for (int64_t i = 0; i < nodes; ++i) {
      for (int64_t c = 0; c < child_count[i]; ++c) {
        THRIFTY_CHECK(child_begin[i] > i && child_begin[i] + c < nodes,
                      "draft: child_begin: expected those of a DraftTree, got ", child_begin[i]);
        parents[size_t(child_begin[i] + c)] = int32_t(i);
      }
    }
    borrowed.draft(contexts, DraftTemplate(parents.data(), nodes), {}, settings, out,
                   edge::torch_threads);
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
  m.def(
      "ngram_update_(Tensor(a!) region, int capacity, int k, int n_min, int n_max, int count_cap, "
      "int table_seed, Tensor tails, Tensor? lens, Tensor ids, Tensor probs) -> ()");
  m.def(
      "ngram_draft(Tensor region, int capacity, int k, int n_min, int n_max, int count_cap, int "
      "table_seed, Tensor tails, Tensor? lens, Tensor child_begin, Tensor child_count, bool "
      "sample, float inv_temp, Tensor seed, Tensor offset) "
      "-> (Tensor tokens, Tensor parents, Tensor first_child, Tensor next_sibling, Tensor depths, "
      "Tensor slots, Tensor ancestors, Tensor sizes, Tensor q_ids, Tensor q)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) {
  THRIFTY_IMPL_VERIFY_OPS(m, thrifty::drafting::ops::Cpu);
  THRIFTY_IMPL_NGRAM_OPS(m, thrifty::drafting::ops::Cpu);
}
