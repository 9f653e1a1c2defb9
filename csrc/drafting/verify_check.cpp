// The checks of verification's arguments. Values are looked at on the CPU alone: on a device that
// would wait for it, so there kernels report a status per row.
#include <cmath>

#include "core/error.h"
#include "core/logits.h"
#include "drafting/verify.h"

namespace thrifty::drafting {
namespace {

// One edge for one op: its name, and whether values can be read.
struct Edge {
  std::string op;
  bool on_device;

  template <class... Parts>
  void expect(bool good, const Parts&... parts) const {
    THRIFTY_CHECK(good, op, ": ", parts...);
  }

  void shape(const char* name, const Array& array, Dtype dtype,
             const std::vector<int64_t>& wanted) const {
    bool same = array.ndim == int(wanted.size()) && array.dtype == dtype;
    std::string text;
    for (size_t d = 0; d < wanted.size(); ++d) {
      same = same && array.shape[d] == wanted[d];
      text += (d > 0 ? ", " : "") + std::to_string(wanted[d]);
    }
    expect(same, name, ": expected ", dtype_name(dtype), " (", text, "), got ",
           dtype_name(array.dtype), " ", shape_text(array));
  }

  template <class T, class Good>
  const T* per_row(const char* name, const Array& array, Dtype dtype, int64_t rows,
                   const char* wanted, const Good& good) const {
    if (!array) return nullptr;
    shape(name, array, dtype, {rows});
    const T* values = static_cast<const T*>(array.data);
    for (int64_t i = 0; i < rows && !on_device; ++i) {
      expect(good(values[i]), name, ": expected ", wanted, ", got ", values[i]);
    }
    return values;
  }

  TargetSettings settings(const SettingArgs& args, int64_t rows) const {
    constexpr Dtype kFloat = Dtype::kFloat32, kInt = Dtype::kInt64;
    const auto any = [](int64_t) { return true; };
    TargetSettings s;
    s.temperature = per_row<float>("temperature", args.temperature, kFloat, rows,
                                   "0, or a number from 1e-6 to 1e6",
                                   [](float t) { return t == 0 || (t >= 1e-6f && t <= 1e6f); });
    s.top_k = per_row<int64_t>("top_k", args.top_k, kInt, rows, "a number >= 0",
                               [](int64_t k) { return k >= 0; });
    s.top_p = per_row<float>("top_p", args.top_p, kFloat, rows, "a number in (0, 1]",
                             [](float p) { return p > 0 && p <= 1; });
    s.min_p = per_row<float>("min_p", args.min_p, kFloat, rows, "a number in [0, 1]",
                             [](float p) { return p >= 0 && p <= 1; });
    s.seed = per_row<int64_t>("seed", args.seed, kInt, rows, "int64", any);
    s.offset = per_row<int64_t>("offset", args.offset, kInt, rows, "int64", any);
    return s;
  }

  // [..., V] with contiguous rows.
  LogitsView logits(const Array& array, int ndim) const {
    expect(is_logits(array.dtype), "logits: expected float32, bfloat16 or float16, got ",
           dtype_name(array.dtype));
    expect(array.ndim == ndim, "logits: expected ", ndim == 2 ? "(N, V)" : "(B, T, V)", ", got ",
           shape_text(array));
    const int64_t vocab = array.size(-1);
    expect(vocab >= 1 && vocab < INT32_MAX, "logits: expected 1 to 2^31 - 2 tokens, got ",
           shape_text(array));
    return {.data = array.data,
            .dtype = array.dtype,
            .batch = ndim == 2 ? 1 : array.shape[0],
            .rows = array.size(-2),
            .vocab = vocab,
            .batch_stride = ndim == 2 ? 0 : array.strides[0],
            .row_stride = array.stride(-2)};
  }

  void count(const char* name, int64_t k, int64_t most) const {
    expect(k >= 0 && k <= most, name, ": expected a number from 0 to ", most, ", got ", k);
  }
};

constexpr int64_t kMostK = 64, kMostDepth = 1 << 16;

const int32_t* ints(const Array& array) { return static_cast<const int32_t*>(array.data); }

}  // namespace

RowStats check_row_stats(const RowStatsArgs& args) {
  const Edge edge{"row_stats", args.on_device};
  RowStats call;
  call.logits = edge.logits(args.logits, 2);
  call.settings = edge.settings(args.settings, call.logits.rows);
  edge.count("k", args.k, kMostK);
  call.k = args.k;
  if (!args.exclude) return call;
  const Array& exclude = args.exclude;
  edge.expect(exclude.ndim == 2 && exclude.shape[1] <= kMostK, "exclude: expected int32 (",
              call.logits.rows, ", at most ", kMostK, "), got ", shape_text(exclude));
  edge.shape("exclude", exclude, Dtype::kInt32, {call.logits.rows, exclude.shape[1]});
  call.exclude = ints(exclude), call.excluded = exclude.shape[1];
  for (int64_t i = 0; i < exclude.numel() && !args.on_device; ++i) {
    const int32_t id = call.exclude[i];
    edge.expect(id >= -1 && id < call.logits.vocab, "exclude: expected ids from -1 to ",
                call.logits.vocab - 1, ", got ", id);
  }
  return call;
}

VerifyTree check_verify_tree(const VerifyTreeArgs& args) {
  const Edge edge{"verify_tree", args.on_device};
  VerifyTree call;
  call.logits = edge.logits(args.logits, 3);
  const int64_t batch = call.logits.batch;
  call.settings = edge.settings(args.settings, batch);
  edge.expect(args.tokens.ndim == 2, "tokens: expected int32 (B, T), got ",
              shape_text(args.tokens));
  call.nodes = args.tokens.shape[1];
  edge.expect(call.nodes >= 1, "tokens: expected at least node 0, got ", shape_text(args.tokens));
  const auto links = [&](const char* name, const Array& array) {
    edge.shape(name, array, Dtype::kInt32, {batch, call.nodes});
    return ints(array);
  };
  call.tokens = links("tokens", args.tokens);
  call.first_child = links("first_child", args.first_child);
  call.next_sibling = links("next_sibling", args.next_sibling);
  edge.expect(args.q_ids.ndim == 3, "q_ids: expected int32 (B, T, K), got ",
              shape_text(args.q_ids));
  call.support = args.q_ids.shape[2];
  edge.shape("q_ids", args.q_ids, Dtype::kInt32, {batch, call.nodes, call.support});
  edge.shape("q", args.q, Dtype::kFloat32, {batch, call.nodes, call.support});
  call.q_ids = ints(args.q_ids), call.q = static_cast<const float*>(args.q.data);
  edge.expect(args.rule == "recursive" || args.rule == "target" || args.rule == "greedy",
              "rule: expected recursive, target or greedy, got ", args.rule);
  call.rule = args.rule == "greedy"   ? Rule::kGreedy
              : args.rule == "target" ? Rule::kTarget
                                      : Rule::kRecursive;
  edge.expect(args.settings.seed || call.rule == Rule::kGreedy,
              "seed: expected one unless the rule is greedy, got None");
  edge.count("max_depth", args.max_depth, kMostDepth);
  edge.count("k", args.k, kMostK);
  call.max_depth = args.max_depth, call.k = args.k, call.all_rows = args.all_rows;
  return call;
}

VerifyChain check_verify_chain(const VerifyChainArgs& args) {
  const Edge edge{"verify_chain", args.on_device};
  VerifyChain call;
  call.logits = edge.logits(args.logits, 3);
  const int64_t batch = call.logits.batch;
  call.settings = edge.settings(args.settings, batch);
  call.length = call.logits.rows - 1;
  edge.expect(call.length >= 0, "logits: expected n + 1 rows, got ", shape_text(args.logits));
  edge.shape("tokens", args.tokens, Dtype::kInt32, {batch, call.length});
  call.tokens = ints(args.tokens);
  if (args.lens) {
    edge.shape("lens", args.lens, Dtype::kInt32, {batch});
    call.lens = ints(args.lens);
  }
  edge.expect(!args.q_ids || args.q, "q: expected the probabilities of q_ids, got None");
  if (args.q) {
    edge.expect(args.q.ndim == 3, "q: expected float32 (B, n, V) or (B, n, K), got ",
                shape_text(args.q));
    call.support = args.q_ids ? args.q.shape[2] : call.logits.vocab;
    edge.shape("q", args.q, Dtype::kFloat32, {batch, call.length, call.support});
    call.q = static_cast<const float*>(args.q.data);
  }
  if (args.q_ids) {
    edge.shape("q_ids", args.q_ids, Dtype::kInt32, {batch, call.length, call.support});
    call.q_ids = ints(args.q_ids);
  }
  edge.expect(args.method == "token" || args.method == "block",
              "method: expected token or block, got ", args.method);
  call.block = args.method == "block";
  bool greedy = call.settings.temperature != nullptr && !args.on_device;
  for (int64_t b = 0; greedy && b < batch; ++b) greedy = call.settings.temperature[b] == 0;
  edge.expect(args.settings.seed || greedy || args.on_device,
              "seed: expected one unless temperature is 0, got None");
  edge.count("k", args.k, kMostK);
  call.k = args.k;
  return call;
}

void raise_status(const std::string& op, const int32_t* status, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i) {
    THRIFTY_CHECK(status[i] != kBadLogits, op,
                  ": logits: expected finite numbers or -inf, one finite in each row, got NaN, "
                  "+inf or only -inf for ",
                  i);
    THRIFTY_CHECK(status[i] != kBadDraft, op,
                  ": draft: expected links that lead forward, tokens of the vocabulary, and "
                  "distributions q, got another for ",
                  i);
  }
}

}  // namespace thrifty::drafting
