// row_stats, verify_tree and verify_chain against the CPU's: the same tokens, paths and statuses
// for the same seeds; whatever ids and links say, no access out of bounds.
#include <cmath>
#include <functional>
#include <memory>
#include <random>

#include "drafting/verify_cuda.h"
#include "hostcuda/harness.h"

namespace thrifty::drafting::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

template <class T>
using Column = std::unique_ptr<Buffer<T>>;
template <class T>
Column<T> column(const std::vector<T>& values) {
  return std::make_unique<Buffer<T>>(values);
}

void expect_near(const Buffer<float>& actual, const Buffer<float>& expected, double tolerance,
                 const std::string& what) {
  const auto a = actual.values(), e = expected.values();
  for (size_t i = 0; i < a.size(); ++i) {
    expect(std::abs(double(a[i]) - double(e[i])) <= tolerance * (1 + std::abs(double(e[i]))),
           what + "[" + std::to_string(i) + "] = " + std::to_string(a[i]) + ", expected " +
               std::to_string(e[i]));
  }
}

struct Setting {
  float temperature = 1;
  int64_t top_k = 0;
  float top_p = 1, min_p = 0;
};

// Settings of `n` requests.
struct Settings {
  Settings(int64_t n, const Setting& s)
      : temperature(column(std::vector<float>(size_t(n), s.temperature))),
        top_k(column(std::vector<int64_t>(size_t(n), s.top_k))),
        top_p(column(std::vector<float>(size_t(n), s.top_p))),
        min_p(column(std::vector<float>(size_t(n), s.min_p))),
        given(s) {
    std::vector<int64_t> seeds, offsets;
    for (int64_t i = 0; i < n; ++i) seeds.push_back(5 + i), offsets.push_back(100 * i);
    seed = column(seeds), offset = column(offsets);
  }
  TargetSettings view() const {
    TargetSettings s;
    if (given.temperature != 1) s.temperature = temperature->data();
    if (given.top_k > 0) s.top_k = top_k->data();
    if (given.top_p < 1) s.top_p = top_p->data();
    if (given.min_p > 0) s.min_p = min_p->data();
    s.seed = seed->data(), s.offset = offset->data();
    return s;
  }
  Column<float> temperature;
  Column<int64_t> top_k;
  Column<float> top_p, min_p;
  Column<int64_t> seed, offset;
  Setting given;
};

const Setting kSettings[] = {{},
                             {.temperature = 0},
                             {.temperature = 0.6f},
                             {.top_k = 20},
                             {.temperature = 1.4f, .top_p = 0.8f, .min_p = 0.01f}};

std::vector<float> logits_of(size_t count, unsigned seed) {
  std::vector<float> values = normal_values<float>(count, seed);
  for (float& value : values) value *= 2;
  return values;
}

// --- row_stats
// ------------------------------------------------------------------------------------

Bytes check_stats(std::vector<float> values, int64_t rows, int64_t vocab, int64_t k,
                  const Setting& setting, const std::vector<int32_t>& exclude = {}) {
  Buffer<float> logits(values);
  Buffer<int32_t> excluded(exclude);
  const Settings settings(rows, setting);
  RowStats call;
  call.logits = {logits.data(), Dtype::kFloat32, 1, rows, vocab, 0, vocab};
  call.k = k, call.settings = settings.view();
  if (!exclude.empty()) {
    call.exclude = excluded.data(), call.excluded = int64_t(exclude.size()) / rows;
  }
  const auto n = size_t(rows), nk = size_t(rows * k);
  Buffer<float> lse(n), want_lse(n), probs(nk), want_probs(nk);
  Buffer<int32_t> ids(nk), want_ids(nk), draw(n), want_draw(n), status(n), want_status(n);
  Buffer<unsigned char> scratch(size_t(row_stats_scratch(call)));
  expect_ok(cuda::row_stats(call,
                            {lse.data(), ids.data(), probs.data(), draw.data(), status.data()},
                            scratch.data(), nullptr)
                .error);
  drafting::row_stats(
      call,
      {want_lse.data(), want_ids.data(), want_probs.data(), want_draw.data(), want_status.data()},
      serial);
  expect(status.values() == want_status.values(), "status");
  expect(ids.values() == want_ids.values(), "topk_ids");
  expect(draw.values() == want_draw.values(), "draw");
  expect_near(lse, want_lse, 3e-6, "lse");
  expect_near(probs, want_probs, 3e-6, "topk_probs");
  Bytes all = ids.bytes();
  for (const Bytes& more : {draw.bytes(), lse.bytes(), probs.bytes()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

}  // namespace

TEST(stats_sizes) {
  for (const int64_t vocab : {1, 7, 1024, 3000}) {
    for (const int64_t k : {0, 1, 10, 40, 64}) {
      check_stats(logits_of(size_t(2 * vocab), unsigned(vocab + k)), 2, vocab, k, {});
    }
  }
}

TEST(stats_settings) {
  const std::vector<int32_t> exclude = {5, 1900, -1, 5, 7, 2000000, -9, 0};
  for (const Setting& setting : kSettings) {
    check_stats(logits_of(4200, 3), 2, 2100, 10, setting);
    if (setting.temperature != 0) check_stats(logits_of(4200, 3), 2, 2100, 3, setting, exclude);
  }
}

TEST(stats_schedules) {
  for_each_schedule([] {
    return check_stats(logits_of(5 * 1100, 4), 5, 1100, 5, {.temperature = 0.7f}, {1, 2, 3, 4, 5});
  });
}

// Equal logits come by id; rows with few tokens, and without a law.
TEST(stats_hard_rows) {
  std::vector<float> equal(3000, 1.0f);
  check_stats(equal, 1, 3000, 20, {});
  std::vector<float> few(4000, -INFINITY);
  few[3] = 1, few[1999] = 2, few[2500] = 0.0f, few[2501] = -0.0f;
  check_stats(few, 2, 2000, 5, {});
  check_stats(few, 2, 2000, 5, {}, {3, 1999, 500, 501});
  std::vector<float> bad = logits_of(4500, 8);
  bad[10] = NAN, bad[3100] = INFINITY;
  std::fill(bad.begin() + 1500, bad.begin() + 3000, -INFINITY);
  check_stats(bad, 3, 1500, 4, {});
}

// --- verify_tree
// ----------------------------------------------------------------------------------

namespace {

// A tree with a root of three children, of which the first has two and the second one, and whose
// tokens and q come from the logits, so that much is accepted.
struct Tree {
  static constexpr int64_t kNodes = 8, kRows = 7, kSupport = 5, kDepth = 3;

  Tree(int64_t batch, int64_t vocab, const Setting& setting, unsigned seed)
      : batch(batch), vocab(vocab), settings(batch, setting) {
    values = logits_of(size_t(batch * kRows * vocab), seed);
    std::mt19937 random(seed);
    for (int64_t b = 0; b < batch; ++b) {
      tokens.insert(tokens.end(), {1, 0, 0, 0, 0, 0, 0, -1});
      first_child.insert(first_child.end(), {1, 4, 6, -1, -1, -1, -1, -1});
      next_sibling.insert(next_sibling.end(), {-1, 2, 3, -1, 5, -1, -1, -1});
      for (int64_t node = 0; node < kNodes; ++node) support(b, node, random);
    }
  }

  // q on the largest logits of the node's row, in a random order; children are the first of them.
  void support(int64_t b, int64_t node, std::mt19937& random) {
    std::vector<int32_t> ids;
    const int64_t row = std::min(node, kRows - 1);
    float* logits = values.data() + (b * kRows + row) * vocab;
    double sum = 0;
    std::vector<float> weights;
    while (int64_t(ids.size()) < kSupport) {
      const auto id = int32_t(random() % unsigned(vocab));
      if (std::find(ids.begin(), ids.end(), id) != ids.end()) continue;
      ids.push_back(id);
      logits[id] = 5 + float(random() % 100) / 50;
      weights.push_back(1 + float(random() % 100) / 100);
      sum += double(weights.back());
    }
    const bool internal = first_child[size_t(b * kNodes + node)] >= 0;
    for (int64_t i = 0; i < kSupport; ++i) {
      q_ids.push_back(internal ? ids[size_t(i)] : -1);
      q.push_back(internal ? float(double(weights[size_t(i)]) / sum) : 0);
    }
    int64_t i = 0;
    for (int32_t c = first_child[size_t(b * kNodes + node)]; c >= 0;
         c = next_sibling[size_t(b * kNodes + c)]) {
      tokens[size_t(b * kNodes + c)] = ids[size_t(i++)];
    }
  }

  int64_t batch, vocab;
  Settings settings;
  std::vector<float> values, q;
  std::vector<int32_t> tokens, first_child, next_sibling, q_ids;
};

struct Verified {
  Verified(int64_t batch, int64_t width, int64_t rows, int64_t k)
      : tokens(size_t(batch * width)),
        lengths(size_t(batch)),
        path(size_t(batch * width)),
        ids(size_t(batch * rows * k)),
        status(size_t(batch)),
        probs(size_t(batch * rows * k)) {}
  VerifyOut out() {
    return {tokens.data(), lengths.data(), path.data(), ids.data(), probs.data(), status.data()};
  }
  Bytes bytes() const {
    Bytes all = tokens.bytes();
    for (const Bytes& more : {path.bytes(), ids.bytes(), probs.bytes()}) {
      all.insert(all.end(), more.begin(), more.end());
    }
    return all;
  }
  Buffer<int32_t> tokens, lengths, path, ids, status;
  Buffer<float> probs;
};

void expect_same(const Verified& got, const Verified& want) {
  expect(got.status.values() == want.status.values(), "status");
  expect(got.lengths.values() == want.lengths.values(), "lengths");
  expect(got.tokens.values() == want.tokens.values(), "tokens");
  expect(got.path.values() == want.path.values(), "path");
  expect(got.ids.values() == want.ids.values(), "topk_ids");
  expect_near(got.probs, want.probs, 3e-6, "topk_probs");
}

Bytes check_tree(const Tree& tree, Rule rule, bool all_rows, int64_t* accepted = nullptr,
                 bool run_cpu = true) {
  Buffer<float> logits(tree.values), q(tree.q);
  Buffer<int32_t> tokens(tree.tokens), first_child(tree.first_child),
      next_sibling(tree.next_sibling), q_ids(tree.q_ids);
  VerifyTree call;
  call.logits = {logits.data(), Dtype::kFloat32,          tree.batch, Tree::kRows,
                 tree.vocab,    Tree::kRows * tree.vocab, tree.vocab};
  call.tokens = tokens.data(), call.first_child = first_child.data();
  call.next_sibling = next_sibling.data(), call.q_ids = q_ids.data(), call.q = q.data();
  call.nodes = Tree::kNodes, call.support = Tree::kSupport, call.rule = rule;
  call.max_depth = Tree::kDepth, call.k = 3, call.all_rows = all_rows;
  call.settings = tree.settings.view();
  const int64_t rows = all_rows ? Tree::kRows : Tree::kDepth + 1;
  Verified got(tree.batch, Tree::kDepth + 1, rows, 3), want(tree.batch, Tree::kDepth + 1, rows, 3);
  Buffer<unsigned char> scratch(size_t(verify_tree_scratch(call)));
  expect_ok(cuda::verify_tree(call, got.out(), scratch.data(), nullptr).error);
  if (run_cpu) {
    drafting::verify_tree(call, want.out(), serial);
    expect_same(got, want);
  }
  for (const int32_t length : got.lengths.values()) {
    if (accepted) *accepted += length - 1;
  }
  return got.bytes();
}

}  // namespace

TEST(tree_rules) {
  int64_t accepted = 0;
  for (const Setting& setting : kSettings) {
    for (const Rule rule : {Rule::kRecursive, Rule::kTarget, Rule::kGreedy}) {
      for (unsigned seed = 1; seed <= 2; ++seed) {
        const Tree tree(6, 60, setting, seed);
        check_tree(tree, rule, seed == 1, &accepted);
      }
    }
  }
  expect(accepted > 60, "drafts are accepted: " + std::to_string(accepted));
}

TEST(tree_large_rows) {
  check_tree(Tree(2, 2100, {.temperature = 0.8f, .top_p = 0.9f}, 3), Rule::kRecursive, false);
}

TEST(tree_schedules) {
  const Tree tree(5, 40, {}, 4);
  for_each_schedule([&] { return check_tree(tree, Rule::kRecursive, false); });
}

// Each sequence has one thing wrong; the CPU says which.
TEST(tree_wrong_drafts) {
  const std::function<void(Tree&)> wrongs[] = {
      [](Tree& t) { t.tokens[0] = -1; },
      [](Tree& t) { t.tokens[2] = 5000; },
      [](Tree& t) { t.tokens[7] = 3; },
      [](Tree& t) { t.tokens[4] = -2; },
      [](Tree& t) { t.first_child[0] = 2000000000; },
      [](Tree& t) { t.first_child[1] = 1; },
      [](Tree& t) { t.first_child[2] = -5; },
      [](Tree& t) { t.next_sibling[1] = 7; },
      [](Tree& t) { t.next_sibling[2] = 0; },
      [](Tree& t) { t.q_ids[1] = t.q_ids[0]; },
      [](Tree& t) { t.q_ids[2] = 100000; },
      [](Tree& t) { t.q_ids[2] = INT32_MIN; },
      [](Tree& t) { t.q[0] = NAN; },
      [](Tree& t) { t.q[1] = -0.1f; },
      [](Tree& t) { t.q[1] = INFINITY; },
      [](Tree& t) { t.values[3] = NAN; },
      [](Tree& t) { t.values[size_t(60) + 3] = INFINITY; },
      [](Tree& t) { std::fill_n(t.values.begin(), 60, -INFINITY); },
  };
  for (const auto& wrong : wrongs) {
    for (const Rule rule : {Rule::kRecursive, Rule::kTarget}) {
      Tree tree(2, 60, {}, 5);
      wrong(tree);
      check_tree(tree, rule, false);
    }
  }
}

// The law of the first token, whatever the draft: 1,500 walks over a vocabulary of 8, drafts drawn
// from q. alpha = 1e-6.
TEST(tree_law) {
  const int64_t batch = 1500, vocab = 8, support = 4;
  const float row[] = {1, 0, -1, 0.5f, 2, 0, -0.5f, 0.3f};
  const int32_t ids[] = {1, 4, 6, 7};
  const double q[] = {0.4, 0.1, 0.3, 0.2};
  std::vector<float> values, q_all;
  std::vector<int32_t> tokens, first_child, next_sibling, q_ids;
  std::mt19937 random(12);
  for (int64_t b = 0; b < batch; ++b) {
    for (int i = 0; i < 3; ++i) values.insert(values.end(), row, row + vocab);
    // Two children without replacement.
    double left[] = {q[0], q[1], q[2], q[3]};
    int32_t drawn[2];
    for (int32_t& token : drawn) {
      double target = double(random()) / 4294967296.0 * (left[0] + left[1] + left[2] + left[3]);
      int pick = 0;
      while (pick < 3 && (left[pick] == 0 || target >= left[pick])) target -= left[pick++];
      token = ids[pick], left[pick] = 0;
    }
    tokens.insert(tokens.end(), {0, drawn[0], drawn[1]});
    first_child.insert(first_child.end(), {1, -1, -1});
    next_sibling.insert(next_sibling.end(), {-1, 2, -1});
    for (int node = 0; node < 3; ++node) {
      for (int i = 0; i < support; ++i) {
        q_ids.push_back(node == 0 ? ids[i] : -1), q_all.push_back(node == 0 ? float(q[i]) : 0);
      }
    }
  }
  Buffer<float> logits(values), q_buffer(q_all);
  Buffer<int32_t> t(tokens), f(first_child), s(next_sibling), i(q_ids);
  const Settings settings(batch, {});
  VerifyTree call;
  call.logits = {logits.data(), Dtype::kFloat32, batch, 3, vocab, 3 * vocab, vocab};
  call.tokens = t.data(), call.first_child = f.data(), call.next_sibling = s.data();
  call.q_ids = i.data(), call.q = q_buffer.data(), call.nodes = 3, call.support = support;
  call.max_depth = 1, call.settings = settings.view();
  Verified got(batch, 2, 2, 0);
  Buffer<unsigned char> scratch(size_t(verify_tree_scratch(call)));
  expect_ok(cuda::verify_tree(call, got.out(), scratch.data(), nullptr).error);
  double counts[8] = {}, whole = 0, square = 0;
  const auto emitted = got.tokens.values();
  for (int64_t b = 0; b < batch; ++b) counts[emitted[size_t(2 * b)]] += 1;
  for (const float l : row) whole += std::exp(double(l));
  for (int token = 0; token < 8; ++token) {
    const double mean = double(batch) * std::exp(double(row[token])) / whole;
    square += (counts[token] - mean) * (counts[token] - mean) / mean;
  }
  expect(square < 40.6, "chi-square with 7 degrees of freedom: " + std::to_string(square));
}

// --- verify_chain
// ---------------------------------------------------------------------------------

namespace {

enum class Q { kNone, kSparse, kDense };

struct ChainCase {
  Q q = Q::kSparse;
  bool block = false, lens = true;
  int64_t batch = 5, vocab = 50;
  Setting setting = {};
  unsigned seed = 1;
  std::function<void(std::vector<float>& values, std::vector<int32_t>& tokens,
                     std::vector<int32_t>& ids, std::vector<float>& q)>
      edit = nullptr;
};

// Chains of four tokens, likely ones, from supports of five.
Bytes check_chain(const ChainCase& c, int64_t* accepted = nullptr) {
  constexpr int64_t kLength = 4, kSupport = 5;
  const Settings settings(c.batch, c.setting);
  std::vector<float> values = logits_of(size_t(c.batch * (kLength + 1) * c.vocab), c.seed);
  std::vector<int32_t> tokens, ids, lens;
  std::vector<float> sparse, dense(size_t(c.batch * kLength * c.vocab), 0);
  std::mt19937 random(c.seed);
  for (int64_t b = 0; b < c.batch; ++b) {
    lens.push_back(int32_t(b % (kLength + 1)));
    for (int64_t i = 0; i < kLength; ++i) {
      float* row = values.data() + (b * (kLength + 1) + i) * c.vocab;
      const auto first = int32_t(random() % unsigned(c.vocab - 4 * 9));
      double sum = 0;
      std::vector<float> weights;
      for (int j = 0; j < kSupport; ++j) {
        row[first + 9 * j] = 4 + float(random() % 100) / 50;
        weights.push_back(1 + float(random() % 100) / 100);
        sum += double(weights.back());
      }
      for (int j = 0; j < kSupport; ++j) {
        ids.push_back(first + 9 * j);
        sparse.push_back(float(double(weights[size_t(j)]) / sum));
        dense[size_t((b * kLength + i) * c.vocab + ids.back())] = sparse.back();
      }
      tokens.push_back(first + 9 * int32_t(random() % kSupport));
    }
  }
  std::vector<float> given = c.q == Q::kDense ? dense : sparse;
  if (c.edit) c.edit(values, tokens, ids, given);
  Buffer<float> logits(values), q(given);
  Buffer<int32_t> t(tokens), i(ids), l(lens);
  VerifyChain call;
  call.logits = {logits.data(), Dtype::kFloat32,         c.batch, kLength + 1,
                 c.vocab,       (kLength + 1) * c.vocab, c.vocab};
  call.tokens = t.data(), call.lens = c.lens ? l.data() : nullptr;
  call.length = kLength, call.block = c.block, call.k = 2, call.settings = settings.view();
  if (c.q != Q::kNone) call.q = q.data(), call.support = c.vocab;
  if (c.q == Q::kSparse) call.q_ids = i.data(), call.support = kSupport;
  Verified got(c.batch, kLength + 1, kLength + 1, 2), want(c.batch, kLength + 1, kLength + 1, 2);
  Buffer<unsigned char> scratch(size_t(verify_chain_scratch(call)));
  expect_ok(cuda::verify_chain(call, got.out(), scratch.data(), nullptr).error);
  drafting::verify_chain(call, want.out(), serial);
  try {
    expect_same(got, want);
  } catch (const Failure& failure) {
    throw Failure("q " + std::to_string(int(c.q)) + (c.block ? ", block" : ", token") +
                  ", temperature " + std::to_string(c.setting.temperature) + ", seed " +
                  std::to_string(c.seed) + ": " + failure.what());
  }
  for (const int32_t length : got.lengths.values()) {
    if (accepted) *accepted += length - 1;
  }
  return got.bytes();
}

}  // namespace

TEST(chain_methods) {
  int64_t accepted = 0;
  for (const Q q : {Q::kNone, Q::kSparse, Q::kDense}) {
    for (const bool block : {false, true}) {
      for (const Setting& setting : kSettings) {
        for (unsigned seed = 1; seed <= 2; ++seed) {
          check_chain({.q = q, .block = block, .lens = seed == 1, .setting = setting, .seed = seed},
                      &accepted);
        }
      }
    }
  }
  expect(accepted > 150, "drafts are accepted: " + std::to_string(accepted));
}

TEST(chain_large_rows) {
  for (const bool block : {false, true}) {
    check_chain({.q = Q::kDense, .block = block, .lens = false, .batch = 3, .vocab = 1500});
    check_chain({.q = Q::kSparse, .block = block, .lens = false, .batch = 3, .vocab = 2100});
  }
}

TEST(chain_schedules) {
  for_few_schedules([] { return check_chain({.q = Q::kDense, .block = true, .lens = false}); });
  for_few_schedules([] { return check_chain({.q = Q::kSparse, .lens = false}); });
}

TEST(chain_wrong_drafts) {
  using V = std::vector<float>&;
  using I = std::vector<int32_t>&;
  const std::function<void(std::vector<float>&, std::vector<int32_t>&, std::vector<int32_t>&,
                           std::vector<float>&)>
      wrongs[] = {
          [](V, I tokens, I, V) { tokens[0] = -1; },
          [](V, I tokens, I, V) { tokens[1] = 2000000000; },
          [](V, I tokens, I ids, V) { tokens[2] = (ids[10] + 1) % 50; },
          [](V, I, I ids, V) { ids[3] = 50; },
          [](V, I, I ids, V) { ids[3] = ids[2]; },
          [](V, I tokens, I, V q) { q[size_t(tokens[0]) % 5] = NAN; },
          [](V, I, I, V q) { q[2] = 3; },
          [](V values, I, I, V) { values[60] = NAN; },
          [](V values, I, I, V) { values[3] = INFINITY; },
          [](V values, I, I, V) { std::fill_n(values.begin() + 50, 50, -INFINITY); },
  };
  for (const auto& wrong : wrongs) {
    for (const Q q : {Q::kNone, Q::kSparse, Q::kDense}) {
      for (const bool block : {false, true}) {
        check_chain({.q = q, .block = block, .lens = false, .batch = 2, .edit = wrong});
      }
    }
  }
}

}  // namespace thrifty::drafting::cuda::testing
