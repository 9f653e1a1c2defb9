// torch.ops.thrifty.*: the drafting family on the CPU.
#include "torch/edge.h"

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
