#include <memory>

#include "attention/bucket.h"
#include "attention/centroids.h"
#include "core/bucket_sort.h"

namespace thrifty::attention {
namespace {

constexpr int64_t kRowBlock = 1024;  // rows of one task

// One node of one key head.
struct Task {
  int64_t key_head, index;
  int64_t ids_at;  // where its keys' buckets are
  std::vector<float> mean;
  std::unique_ptr<Directions> directions;
  std::vector<int32_t> kept;
};

struct Block {  // rows of keys (head < 0) or of one query head of the group
  size_t task;
  int64_t head, begin, end;
};

class Planner {
 public:
  Planner(const Problem& p, const Layout& layout, const PlanArgs& args, const PlanOutputs& outputs)
      : p_(p), layout_(layout), args_(args), out_(outputs), size_(dtype_size(p.dtype)) {}

  // Nodes in batches of about this many keys: what is made for them is thrown away after each.
  static constexpr int64_t kBatchKeys = 1 << 16;

  void run(ParallelFor parallel) {
    const auto nodes = int64_t(layout_.nodes.size()), heads = p_.batch * p_.k_heads;
    for (int64_t i = 0; i < heads * nodes;) {
      std::vector<Block> blocks;
      int64_t total = 0;
      for (tasks_.clear(); i < heads * nodes && total < kBatchKeys; ++i) {
        const Node& n = node(i % nodes);
        add_blocks(blocks, tasks_.size(), -1, n.keys());
        for (int64_t g = 0; g < p_.group(); ++g) {
          add_blocks(blocks, tasks_.size(), g, n.queries());
        }
        tasks_.push_back({i / nodes, i % nodes, total, {}, nullptr, {}});
        total += n.keys();
      }
      ids_.resize(size_t(total));
      // The largest squares come last in a layout, and are to be begun first.
      for_turns(
          parallel, int64_t(tasks_.size()), [] { return 0; },
          [&](int, int64_t t) { prepare(tasks_[tasks_.size() - 1 - size_t(t)]); });
      for_each(parallel, int64_t(blocks.size()), [&](int64_t b) { assign(blocks[size_t(b)]); });
      for_each(parallel, int64_t(tasks_.size()), [&](int64_t t) { sort(tasks_[size_t(t)]); });
    }
  }

 private:
  const Node& node(int64_t i) const { return layout_.nodes[size_t(i)]; }
  bool means() const { return args_.mode == Mode::kMeans; }

  static void add_blocks(std::vector<Block>& blocks, size_t task, int64_t head, int64_t rows) {
    for (int64_t at = 0; at < rows; at += kRowBlock) {
      blocks.push_back({task, head, at, std::min(rows, at + kRowBlock)});
    }
  }

  // The head's rows from the node's first key or query on.
  int64_t query_head(int64_t key_head, int64_t g) const {
    return key_head / p_.k_heads * p_.q_heads + key_head % p_.k_heads * p_.group() + g;
  }
  Rows keys(const Task& task) const {
    return p_.k.head(task.key_head / p_.k_heads, task.key_head % p_.k_heads, size_)
        .from(node(task.index).k_begin, size_);
  }
  // Causal squares are numbered by the leaf in which their queries begin.
  uint32_t number(const Node& n) const {
    return args_.causal ? uint32_t((n.first_key + n.keys()) / args_.leaf) : 0;
  }
  int64_t buckets(const Node& n) const {
    return means() ? bucket_count(n.keys(), args_.num_buckets) : int64_t(1) << args_.bits;
  }

  void prepare(Task& task) {
    const Node& n = node(task.index);
    if (!means()) {
      task.directions = std::make_unique<Directions>(args_.planes, args_.bits, p_.d, true);
      for (int64_t s = 0; s < args_.residual; ++s) {
        const uint64_t word = plan_word(args_, Stream::kResidual, uint32_t(s), number(n));
        out_.samples[(task.key_head * int64_t(layout_.nodes.size()) + task.index) * args_.residual +
                     s] = int32_t(word * uint64_t(n.keys()) >> 32);
      }
      return;
    }
    const Rows k = keys(task);
    if (args_.center) task.mean = mean_of(p_.dtype, k, n.keys(), p_.d);
    const float* mean = args_.center ? task.mean.data() : nullptr;
    const std::vector<float> centroids =
        make_centroids(p_.dtype, k, n.keys(), p_.d, buckets(n), mean, args_, number(n));
    task.directions = std::make_unique<Directions>(centroids.data(), buckets(n), p_.d);
    const std::vector<float> probe = probe_of(task);
    task.kept = kept_keys(p_.dtype, k, n.keys(), p_.d, mean, probe.empty() ? nullptr : probe.data(),
                          args_.keep);
  }

  // Mean of the earlier queries over all query heads of the key head; none: empty.
  std::vector<float> probe_of(const Task& task) const {
    const Node& n = node(task.index);
    const int64_t rows = n.probe_end - n.probe_begin;
    if (rows <= 0 || args_.keep == 0) return {};
    std::vector<float> probe(size_t(p_.d), 0.0f);
    for (int64_t g = 0; g < p_.group(); ++g) {
      const Rows q = p_.q_head(query_head(task.key_head, g)).from(n.probe_begin, size_);
      const std::vector<float> mean = mean_of(p_.dtype, q, rows, p_.d);
      for (int64_t c = 0; c < p_.d; ++c) probe[size_t(c)] += mean[size_t(c)];
    }
    return probe;
  }

  void assign(const Block& block) {
    const Task& task = tasks_[block.task];
    const Node& n = node(task.index);
    const bool is_keys = block.head < 0;
    Rows rows = keys(task);
    int32_t* out = ids_.data() + task.ids_at;
    if (!is_keys) {
      const int64_t head = query_head(task.key_head, block.head);
      rows = p_.q_head(head).from(n.q_begin, size_);
      out = out_.q_window + head * layout_.q_total + n.q_at;
    }
    const int64_t count = block.end - block.begin;
    const float* mean = is_keys && !task.mean.empty() ? task.mean.data() : nullptr;
    rows = rows.from(block.begin, size_);
    if (means()) {
      task.directions->nearest(p_.dtype, rows, count, mean, out + block.begin);
    } else {
      task.directions->signs(p_.dtype, rows, count, nullptr, out + block.begin);
    }
  }

  static void sort_ids(const int32_t* ids, int64_t n, int64_t buckets, int32_t* order,
                       int32_t* offsets) {
    Array array{.data = const_cast<int32_t*>(ids), .dtype = Dtype::kInt32, .ndim = 1};
    array.shape[0] = n, array.strides[0] = 1;
    bucket_sort(array, 1, n, buckets, order, offsets, nullptr, serial);
  }

  void sort(const Task& task) {
    const Node& n = node(task.index);
    const int64_t count = buckets(n), width = args_.num_buckets + 1;
    int32_t* ids = ids_.data() + task.ids_at;
    int32_t* order = out_.order + task.key_head * layout_.k_total + n.k_at;
    std::vector<int32_t> offsets(size_t(count) + 1);
    for (const int32_t key : task.kept) ids[key] = int32_t(count);  // of no bucket: sorted behind
    sort_ids(ids, n.keys(), count, order, offsets.data());
    if (means()) {
      int32_t* out =
          out_.offsets + (task.key_head * int64_t(layout_.nodes.size()) + task.index) * width;
      std::fill(std::copy(offsets.begin(), offsets.end(), out), out + width, offsets.back());
      return;
    }
    // Block i of the sorted queries reads window i.
    const int64_t blocks = (n.keys() + args_.window - 1) / args_.window;
    std::vector<int32_t> rank(static_cast<size_t>(n.queries()));
    for (int64_t g = 0; g < p_.group(); ++g) {
      int32_t* q_window = out_.q_window + query_head(task.key_head, g) * layout_.q_total + n.q_at;
      sort_ids(q_window, n.queries(), count, rank.data(), offsets.data());
      for (int64_t i = 0; i < blocks; ++i) {
        const int64_t end = (i + 1) * n.queries() / blocks;
        for (int64_t r = i * n.queries() / blocks; r < end; ++r) {
          q_window[rank[size_t(r)]] = int32_t(i);
        }
      }
    }
  }

  const Problem& p_;
  const Layout& layout_;
  const PlanArgs& args_;
  const PlanOutputs& out_;
  int64_t size_;
  std::vector<Task> tasks_;
  std::vector<int32_t> ids_;
};

}  // namespace

void hyper_plan(const Problem& problem, const Layout& layout, const PlanArgs& args,
                const PlanOutputs& outputs, ParallelFor parallel) {
  Planner(problem, layout, args, outputs).run(problem.worth(parallel));
}

}  // namespace thrifty::attention
