// Arguments of the family's ops, checked: what edges call before they allocate anything.
#pragma once

#include <string>

#include "attention/hyper.h"
#include "core/array.h"

namespace thrifty::attention {

Heads heads_of(const Array& a);  // [B, H, N, columns]
Problem check_qkv(const char* op, const Array& q, const Array& k, const Array& v, double scale);

// [0, ..., n] rising, for a batch of one; absent: {0, n}.
std::vector<int64_t> check_cuts(const char* op, const char* name, const Array& cuts, int64_t n,
                                int64_t batch);

struct RecipeArgs {
  std::string mode;
  bool causal = false, center = true;
  int64_t num_buckets = 0, window = 0, residual = 0, keep = 0, leaf = 0;
};
// Window, counts and mode; planes and seed are hyper_plan's alone.
PlanArgs check_recipe(const char* op, const RecipeArgs& args);
bool fits_planes(const Array& planes, int64_t d);  // float32 [d, 1 to 16]
void check_planes(const Array& planes, int64_t d, PlanArgs& args);
struct SeedPair {
  uint64_t seed, offset;
};
// A seed on a device has its shape checked alone.
void check_seed_shape(const char* op, const Array& seed);
SeedPair check_seed(const char* op, const Array& seed);

// The integers of a plan: their shapes, and that none points outside, which only kernels can tell
// of those `on_device`.
struct PlanArrays {
  Array order, offsets, q_window, samples;  // dense int32
};
Plan check_plan(const Problem& problem, const Layout& layout, const PlanArgs& args,
                const PlanArrays& arrays, bool on_device = false);

// The layout of the sequences beside the recipe's numbers.
struct Setup {
  PlanArgs args;
  Layout layout;
};
Setup check_setup(const char* op, const Problem& problem, const RecipeArgs& recipe,
                  const Array& cu_q, const Array& cu_k);

// x [..., N, D] and its mean [..., D] or nothing.
void check_lsh_bucket(const Array& x, const Array& planes, const Array& mean);
void check_centroid_bucket(const Array& x, const Array& centroids, const Array& mean);

struct CoreArgs {
  Array q, k, v, q_order, q_offsets, k_order, windows;    // dense int32 behind v
  Array list_k, list_v, list_logw, list_range, list_var;  // dense
  double scale = 0;
};
// A call of hyper_core; q_window is what its plan points into, but not `on_device`.
Hyper check_core(const CoreArgs& args, std::vector<int32_t>& q_window, bool on_device = false);

// Shapes of the outputs, and the gradients that backward gets.
void check_grads(const char* op, const Problem& problem, const Array& dout, const Array& dlse,
                 const Array& out, const Array& lse);

}  // namespace thrifty::attention
