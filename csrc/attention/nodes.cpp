#include "attention/nodes.h"

#include <cstring>

namespace thrifty::attention {
namespace {

constexpr int64_t kBucketChunk = 16;  // buckets of one task

struct Part {
  size_t node;
  int64_t first, last;  // buckets; first < 0: the rest of the node
};

Windows windows_of(const Hyper& hyper, int64_t head, const NodeKeys& keys) {
  Windows windows;
  const auto add = [&](int64_t begin, int64_t end) {
    windows.begin.push_back(int32_t(begin)), windows.end.push_back(int32_t(end));
  };
  const auto add_from = [&](int64_t begin) {
    add(begin, std::min(begin + keys.window, keys.sorted));
  };
  const Given& given = hyper.given;
  if (given.windows != nullptr) {
    const int32_t* bounds =
        given.windows + 2 * given.window_count * hyper.problem.key_head_index(head);
    for (int64_t w = 0; w < given.window_count; ++w) add(bounds[2 * w], bounds[2 * w + 1]);
    add(0, 0);
  } else if (hyper.plan.mode == Mode::kMeans) {
    const int64_t buckets = bucket_count(keys.sorted + keys.kept, hyper.plan.num_buckets);
    for (int64_t c = 0; c < buckets; ++c) {
      add_from(window_start(keys.offsets[c], keys.offsets[c + 1] - keys.offsets[c], keys.window,
                            keys.sorted));
    }
  } else {
    for (int64_t at = 0; at < keys.sorted; at += keys.window) {
      add_from(std::max<int64_t>(0, std::min(at, keys.sorted - keys.window)));
    }
  }
  return windows;
}

void make_given(const Hyper& hyper, int64_t head, List& list) {
  const Problem& p = hyper.problem;
  const Kit kit = p.kit();
  const GivenList& given = hyper.given.list;
  const int64_t first = p.key_head_index(head) * given.count;
  const auto row = [&](const void* data, int64_t bytes) {
    return static_cast<const std::byte*>(data) + first * bytes;
  };
  kit.tile.gather(given.count, p.d, row(given.k, p.d * kit.size), p.d, nullptr, list.k.data(),
                  list.k_ld);
  kit.tile.gather(given.count, p.dv, row(given.v, p.dv * kit.size), p.dv, nullptr, list.v.data(),
                  list.v_ld);
  const auto copy = [&](const void* data, Scratch& to) {
    std::memcpy(to.data(), row(data, kit.sum), size_t(given.count * kit.sum));
  };
  copy(given.logw, list.logw);
  if (given.var != nullptr) copy(given.var, list.var);
  list.with_var = given.var != nullptr;
  for (int64_t i = 0; given.range != nullptr && i < given.count; ++i) {
    const int32_t* range = given.range + 2 * (first + i);
    if (range[1] > range[0]) list.stand_for(kit, i, range[0], range[1]);
  }
}

NodeKeys node_keys(const Hyper& hyper, int64_t head, int64_t index) {
  const Problem& p = hyper.problem;
  const Plan& plan = hyper.plan;
  const Node& node = plan.layout.nodes[size_t(index)];
  const int64_t key_head = p.key_head_index(head), size = dtype_size(p.dtype);
  const auto nodes = int64_t(plan.layout.nodes.size());
  NodeKeys keys;
  keys.k = p.key_head(p.k, head).from(node.k_begin, size);
  keys.v = p.key_head(p.v, head).from(node.k_begin, size);
  keys.order = plan.order + key_head * plan.layout.k_total + node.k_at;
  keys.sorted = node.keys(), keys.window = plan.window;
  if (hyper.given.windows != nullptr) return keys;
  if (plan.mode == Mode::kMeans) {
    keys.kept = std::min(plan.keep, node.keys()), keys.sorted -= keys.kept;
    keys.buckets = plan.residual > 0 ? bucket_count(node.keys(), plan.num_buckets) : 0;
    keys.offsets = plan.offsets + (key_head * nodes + index) * (plan.num_buckets + 1);
  } else {
    keys.sample_count = plan.residual;
    keys.samples = plan.samples + (key_head * nodes + index) * plan.residual;
  }
  return keys;
}

}  // namespace

Wave make_leaves(const Hyper& hyper, int64_t head, int64_t first, int64_t last, int64_t q_begin,
                 int64_t q_end, ParallelFor) {
  const Problem& p = hyper.problem;
  Wave wave;
  for (int64_t i = first; i < last; ++i) {
    const Leaf& leaf = hyper.plan.layout.leaves[size_t(i)];
    const int64_t begin = std::max(q_begin, leaf.q_begin), end = std::min(q_end, leaf.q_end);
    if (begin >= end) continue;
    NodeWork& work = wave.emplace_back();
    work.k_begin = leaf.k_begin;
    work.keys.k = p.key_head(p.k, head).from(leaf.k_begin, dtype_size(p.dtype));
    work.keys.v = p.key_head(p.v, head).from(leaf.k_begin, dtype_size(p.dtype));
    work.keys.sorted = leaf.k_end - leaf.k_begin;
    work.queries.by_position(begin, end, leaf.diagonal + 1 - leaf.k_begin, work.keys.sorted);
  }
  return wave;
}

Wave make_nodes(const Hyper& hyper, int64_t head, int64_t first, int64_t last, int64_t q_begin,
                int64_t q_end, bool packed, ParallelFor parallel) {
  const Problem& p = hyper.problem;
  const bool given = hyper.given.windows != nullptr;
  Wave wave;
  std::vector<const Node*> nodes;
  std::vector<Part> parts;
  for (int64_t i = first; i < last; ++i) {
    const Node& node = hyper.plan.layout.nodes[size_t(i)];
    if (std::max(q_begin, node.q_begin) >= std::min(q_end, node.q_end)) continue;
    nodes.push_back(&node);
    parts.push_back({wave.size(), -1, -1});
    NodeWork& work = wave.emplace_back();
    work.keys = node_keys(hyper, head, i), work.k_begin = node.k_begin;
    const NodeKeys& keys = work.keys;
    work.list.allocate(
        p.kit(), given ? hyper.given.list.count : keys.buckets + keys.kept + keys.sample_count, p.d,
        p.dv);
    work.list.with_var = keys.buckets > 0;
    for (int64_t c = 0; c < keys.buckets; c += kBucketChunk) {
      parts.push_back({wave.size() - 1, c, std::min(keys.buckets, c + kBucketChunk)});
    }
  }
  const int32_t* q_window = hyper.plan.q_window + head * hyper.plan.layout.q_total;
  for_each(parallel, int64_t(parts.size()), [&](int64_t i) {
    const Part& part = parts[size_t(i)];
    NodeWork& work = wave[part.node];
    if (part.first >= 0) return work.list.make_means(p, work.keys, part.first, part.last);
    const Node& node = *nodes[part.node];
    const int64_t begin = std::max(q_begin, node.q_begin), end = std::min(q_end, node.q_end);
    work.queries.by_window(q_window + node.q_at + (begin - node.q_begin), begin, end,
                           windows_of(hyper, head, work.keys));
    if (given) {
      make_given(hyper, head, work.list);
    } else {
      work.list.make_keys(p, work.keys);
    }
  });
  if (packed) {
    for_each(parallel, int64_t(wave.size()), [&](int64_t i) { wave[size_t(i)].list.pack(p); });
  }
  return wave;
}

std::vector<WaveTile> tiles_of(Wave& wave) {
  std::vector<WaveTile> all;
  for (NodeWork& work : wave) {
    for (const QueryTile& tile : work.queries.tiles) all.push_back({&work, tile});
  }
  return all;
}

}  // namespace thrifty::attention
