// Verification of drafts, lossless: the law of the emitted tokens is the target's.
//
// Target of a row: p = softmax(logits / T), cut by top-k, top-p, min-p and normalised again.
//
//   recursive  children x_1, x_2, ... of a node, drawn without replacement from q: accept x_i if
//              u q_i(x_i) < p_i(x_i); else p_{i+1} = norm(max(p_i - q_i, 0)), q_{i+1} = q_i without
//              x_i; none accepted: draw from what is left of p (SpecInfer, arXiv 2305.09781,
//              section 4.3; Sequoia, arXiv 2402.12374, algorithm 2)
//   target     draw x ~ p, follow the child that is x
//   greedy     the same with x = argmax
//   token      a chain's recursive rule (Leviathan et al., arXiv 2211.17192)
//   block      a chain's tokens judged together (Sun et al., arXiv 2403.10444, algorithm 2)
//
// q is sparse: outside its support max(p - q, 0) stays p, so a row needs one pass, which yields its
// normaliser, and scalars per candidate; the draw outside the support is made when it is needed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::drafting {

// How row i becomes p; each [rows], or null for what changes nothing.
struct TargetSettings {
  const float* temperature = nullptr;
  const int64_t* top_k = nullptr;
  const float *top_p = nullptr, *min_p = nullptr;
  const int64_t *seed = nullptr, *offset = nullptr;
};

struct SettingArgs {
  Array temperature, top_k, top_p, min_p, seed, offset;
};

// Logits of `rows` rows; row_stride may exceed the vocabulary.
struct LogitsView {
  const void* data = nullptr;
  Dtype dtype = Dtype::kFloat32;
  int64_t batch = 0, rows = 0, vocab = 0;    // [batch, rows, vocab]
  int64_t batch_stride = 0, row_stride = 0;  // in elements
  const void* at(int64_t b, int64_t row) const {
    const int64_t elements = b * batch_stride + row * row_stride;
    return static_cast<const char*>(data) + elements * dtype_size(dtype);
  }
};

enum Status : int32_t { kGood = 0, kBadLogits = 1, kBadDraft = 2 };

// --- row_stats ----------------------------------------------------------------------------------

struct RowStatsArgs {
  Array logits, exclude;
  SettingArgs settings;
  int64_t k = 0;
  bool on_device = false;  // values cannot be looked at
};

struct RowStats {
  LogitsView logits;                 // batch = 1
  const int32_t* exclude = nullptr;  // [rows, excluded]
  int64_t excluded = 0, k = 0;
  TargetSettings settings;
};

struct RowStatsOut {
  float* lse;              // [rows]
  int32_t* topk_ids;       // [rows, k]
  float* topk_probs;       // [rows, k]
  int32_t *draw, *status;  // [rows]
};

RowStats check_row_stats(const RowStatsArgs& args);
void row_stats(const RowStats& call, const RowStatsOut& out, ParallelFor parallel);

// --- verify_tree, verify_chain ------------------------------------------------------------------

enum class Rule { kRecursive, kTarget, kGreedy };

struct VerifyTreeArgs {
  Array logits, tokens, first_child, next_sibling, q_ids, q;
  SettingArgs settings;
  std::string rule;
  int64_t max_depth = 0, k = 0;
  bool all_rows = false, on_device = false;
};

struct VerifyTree {
  LogitsView logits;                                   // [B, R, V]
  const int32_t *tokens, *first_child, *next_sibling;  // [B, T]
  const int32_t* q_ids;                                // [B, T, K]
  const float* q;                                      // [B, T, K]
  int64_t nodes = 0, support = 0;                      // T, K
  Rule rule = Rule::kRecursive;
  int64_t max_depth = 0, k = 0;
  bool all_rows = false;
  TargetSettings settings;  // by sequence
};

struct VerifyChainArgs {
  Array logits, tokens, lens, q_ids, q;
  SettingArgs settings;
  std::string method;
  int64_t k = 0;
  bool on_device = false;
};

struct VerifyChain {
  LogitsView logits;                // [B, n + 1, V]
  const int32_t* tokens = nullptr;  // [B, n]
  const int32_t* lens = nullptr;    // [B] or null
  const int32_t* q_ids = nullptr;   // [B, n, K], or null: q is dense
  const float* q = nullptr;         // [B, n, K], or null: target rule
  int64_t length = 0, support = 0;  // n, K
  bool block = false;
  int64_t k = 0;
  TargetSettings settings;
};

struct VerifyOut {
  int32_t *tokens, *lengths, *path;  // [B, D + 1], [B], [B, D + 1]
  int32_t* topk_ids;                 // [B, stats rows, k]
  float* topk_probs;
  int32_t* status;  // [B]
};

VerifyTree check_verify_tree(const VerifyTreeArgs& args);
void verify_tree(const VerifyTree& call, const VerifyOut& out, ParallelFor parallel);

VerifyChain check_verify_chain(const VerifyChainArgs& args);
void verify_chain(const VerifyChain& call, const VerifyOut& out, ParallelFor parallel);

// Throws std::invalid_argument for the first status that is not good; what `rows` are called.
void raise_status(const std::string& op, const int32_t* status, int64_t rows);

}  // namespace thrifty::drafting
