// torch.ops.thrifty.*: routing, permutation and experts on the CPU.
#include "core/bucket_sort.h"
#include "moe/moe_ops.h"

namespace thrifty::moe::ops {
namespace {

struct Cpu : edge::CpuTensors {
  using edge::CpuTensors::check;
  static constexpr bool kOnDevice = false;
  static void check(const Route&) {}
  static void check(const GroupedMm&) {}
  static void check(const Mlp&) {}
  static void check_chosen(const Route& route, const int32_t* ids, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
      THRIFTY_CHECK(ids[i] >= -1 && ids[i] < route.experts,
                    "moe_route: ids: expected numbers from -1 to ", route.experts - 1, ", got ",
                    ids[i]);
    }
  }
  static Tensor depth_lines(const Tensor& a) { return dense_lines(a); }

  static void bucket_sort(const Array& ids, const Tensor&, int64_t rows, int64_t n, int64_t buckets,
                          int32_t* order, int32_t* offsets) {
    thrifty::bucket_sort(ids, rows, n, buckets, order, offsets, nullptr, edge::torch_threads);
  }
  static void route_fwd(const Route& route, const Tensor&, void* weights, int32_t* ids,
                        void* score_sum, int32_t* count) {
    moe_route_fwd(route, weights, ids, score_sum, count, edge::torch_threads);
  }
  static void route_bwd(const Route& route, const Tensor&, const void* grad, const int32_t* ids,
                        void* dlogits) {
    moe_route_bwd(route, grad, ids, dlogits, edge::torch_threads);
  }
  static void permute(const Permute& permute, const Tensor&, int32_t* slot, int32_t* offsets,
                      int32_t* inverse) {
    moe_permute(permute, slot, offsets, inverse, edge::torch_threads);
  }
  static void grouped_mm(const GroupedMm& product, const Tensor&, void* out) {
    moe::grouped_mm(product, out, edge::torch_threads);
  }
  static void mlp_fwd(const Mlp& mlp, const Tensor&, void* out, void* z) {
    moe_mlp_fwd(mlp, out, z, edge::torch_threads);
  }
  static void mlp_bwd(const Mlp& mlp, const Tensor&, const void* grad, const void* z,
                      const MlpGrads& grads) {
    moe_mlp_bwd(mlp, grad, z, grads, edge::torch_threads);
  }
};

}  // namespace
}  // namespace thrifty::moe::ops

STABLE_TORCH_LIBRARY_FRAGMENT(thrifty, m) {
  m.def("bucket_sort(Tensor ids, int buckets) -> (Tensor order, Tensor offsets)");
  m.def(
      "moe_route_fwd(Tensor logits, Tensor? bias, Tensor? expert_mask, int top_k, str score, "
      "bool renorm, float scale, int n_group, int topk_group, int group_topn, bool stats, "
      "float threshold) -> (Tensor weights, Tensor ids, Tensor score_sum, Tensor count)");
  m.def(
      "moe_route_bwd(Tensor grad, Tensor logits, Tensor? expert_mask, Tensor ids, str score, "
      "bool renorm, float scale) -> Tensor");
  m.def(
      "moe_permute(Tensor ids, int num_experts, Tensor? expert_map, int capacity, "
      "Tensor? priority) -> (Tensor slot, Tensor offsets, Tensor inverse)");
  m.def(
      "grouped_mm(Tensor a, Tensor b, Tensor offs, Tensor? a_idx, Tensor? bias, "
      "Tensor? row_scale, Tensor? accumulate, bool float32_out) -> Tensor");
  m.def(
      "moe_mlp_fwd(Tensor x, Tensor w1, Tensor w2, Tensor ids, Tensor weights, Tensor? b1, "
      "Tensor? b2, Tensor? expert_map, str activation, bool transposed, bool interleaved, "
      "float alpha, float limit, bool save_z) -> (Tensor out, Tensor z)");
  m.def(
      "moe_mlp_bwd(Tensor grad, Tensor x, Tensor w1, Tensor w2, Tensor ids, Tensor weights, "
      "Tensor? b1, Tensor? b2, Tensor? expert_map, Tensor z, str activation, bool transposed, "
      "bool interleaved, float alpha, float limit, int needs) "
      "-> (Tensor dx, Tensor dw1, Tensor dw2, Tensor dweights, Tensor db1, Tensor db2)");
}

STABLE_TORCH_LIBRARY_IMPL(thrifty, CPU, m) { THRIFTY_IMPL_MOE_OPS(m, thrifty::moe::ops::Cpu); }
