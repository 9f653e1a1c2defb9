// torch.ops.thrifty.*: HyperAttention on the CPU.
#include "torch/edge.h"

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  // x [..., N, D], planes [R, D] -> int32 [..., N]
  m.def("lsh_bucket(Tensor x, Tensor planes, Tensor? mean) -> Tensor");
  // x [B, H, N, D], centroids [B, H, C, D] -> int32 [B, H, N]; mean [B, H, D] is subtracted from x
  m.def("centroid_bucket(Tensor x, Tensor centroids, Tensor? mean) -> Tensor");
  // q [B, Hq, Nq, D], k, v [B, Hkv, Nk, D or Dv]; order [B, Hkv, Nk] int32; starts [B, Hkv, NW]
  // int32, rising; q_window [B, Hq, Nq] int32; list_k, list_v [B, Hkv, S, D or Dv], list_logw
  // [B, Hkv, S] float32 (float64 for float64), list_at [B, Hkv, S] int32: the entry's sorted
  // position, at which a window hides it, or -1
  m.def(
      "hyper_core_fwd(Tensor q, Tensor k, Tensor v, Tensor order, Tensor starts, Tensor q_window, "
      "Tensor? list_k, Tensor? list_v, Tensor? list_logw, Tensor? list_at, int window, float scale)"
      " -> (Tensor out, Tensor lse)");
  m.def(
      "hyper_core_bwd(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor order, "
      "Tensor starts, Tensor q_window, Tensor? list_k, Tensor? list_v, Tensor? list_logw, "
      "Tensor? list_at, Tensor out, Tensor lse, int window, float scale) "
      "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dlist_k, Tensor dlist_v, Tensor dlist_logw)");
  // mode: "means" or "paper". cu_q, cu_k: int64 on the CPU, for B = 1. Nodes: attention/layout.h.
  // order [B, Hkv, TK], offsets [B, Hkv, nodes, num_buckets + 1], q_window [B, Hq, TQ], samples
  // [B, Hkv, nodes, residual]; all int32
  m.def(
      "hyper_plan(Tensor q, Tensor k, Tensor? planes, Tensor? cu_q, Tensor? cu_k, str mode, "
      "bool causal, bool center, int num_buckets, int window, int residual, int keep, int leaf, "
      "int seed) -> (Tensor order, Tensor offsets, Tensor q_window, Tensor samples)");
  // lse [B, Hq, Nq] float32 (float64 for float64). Without nodes (causal and n <= leaf) exact.
  m.def(
      "hyper_attention_fwd(Tensor q, Tensor k, Tensor v, Tensor order, Tensor offsets, "
      "Tensor q_window, Tensor samples, Tensor? cu_q, Tensor? cu_k, str mode, bool causal, "
      "int num_buckets, int window, int residual, int keep, int leaf, float scale) "
      "-> (Tensor out, Tensor lse)");
  m.def(
      "hyper_attention_bwd(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, "
      "Tensor lse, Tensor order, Tensor offsets, Tensor q_window, Tensor samples, Tensor? cu_q, "
      "Tensor? cu_k, str mode, bool causal, int num_buckets, int window, int residual, int keep, "
      "int leaf, float scale) -> (Tensor dq, Tensor dk, Tensor dv)");
}
