// hyper_plan on CUDA: one launch for all nodes and heads at each step.
//
//   means   node_means -> spread_centroids -> 2 x (nearest of the sample, node_sort,
//   move_centroids)
//           -> gram, chain -> nearest of the keys -> key_scores, keep_keys -> node_sort; nearest of
//           the queries
//   paper   plane_signs of all rows, once for all levels -> node_sort of keys and of queries
//
// Heads are taken in batches whose scratch memory is about kBatchBytes.
#include "attention/plan_cuda.h"

#include "attention/keep_cuda.h"
#include "attention/node_sort_cuda.h"
#include "attention/thin_product_cuda.h"
#include "core/scratch_arena.h"
#include "core/upload_cuda.h"

namespace thrifty::attention::cuda {

NodeTable::NodeTable(const Layout& layout, const PlanArgs& args) {
  const bool means = args.mode == Mode::kMeans;
  const int64_t width = (means ? args.num_buckets : int64_t(1) << args.bits) + 1;
  for (const Node& from : layout.nodes) {
    PlanNode node = total;
    node.buckets = means ? int32_t(bucket_count(from.keys(), args.num_buckets)) : 0;
    // Causal squares are numbered by the leaf in which their queries begin.
    node.number = args.causal ? int32_t((from.first_key + from.keys()) / args.leaf) : 0;
    const int64_t sample = means ? std::min<int64_t>(from.keys(), kLloydKeys * node.buckets) : 0;
    const auto span = [&](Part part, int64_t begin, int64_t count) {
      Span &mine = node.part[part], &next = total.part[part];
      mine.begin = int32_t(begin), mine.count = int32_t(count);
      next.at += count, next.tile += int32_t(ceil_div(count, kTile));
      next.walker += int32_t(ceil_div(count, walker_rows(count, width)));
    };
    span(kKeys, from.k_begin, from.keys());
    span(kQueries, from.q_begin, from.queries());
    span(kSample, from.k_begin, sample);
    span(kProbes, from.probe_begin, std::max<int64_t>(0, from.probe_end - from.probe_begin));
    node.candidates =
        means ? int32_t(std::min<int64_t>(from.keys(), kCandidates * node.buckets)) : 0;
    nodes.push_back(node);
    total.candidate += node.candidates;
    const int32_t across = int32_t(ceil_div(node.buckets, kTile));
    total.centroid += node.buckets, total.gram_tile += across * across;
    total.gram += int64_t(node.buckets) * node.buckets;
    total.key_chunk += int32_t(ceil_div(node.part[kKeys].count, kChunk));
    total.probe_chunk += int32_t(ceil_div(node.part[kProbes].count, kChunk));
  }
}

namespace {

constexpr int kLloydSteps = 2;
constexpr int64_t kBatchBytes = int64_t(256) << 20;

// Scratch memory of a batch of key heads.
struct PlanMemory {
  PlanNode* nodes = nullptr;
  float *partial = nullptr, *mean = nullptr, *probe = nullptr, *gram = nullptr, *scores = nullptr;
  float *candidates = nullptr, *nearness = nullptr;
  DirectionArrays drawn, chained;
  int32_t *sample_ids = nullptr, *sample_order = nullptr, *offsets = nullptr, *counts = nullptr;
  int32_t *chain = nullptr, *visited = nullptr, *key_ids = nullptr, *query_ids = nullptr;
  int64_t bytes = 0;

  PlanMemory(const Problem& p, const NodeTable& table, const PlanArgs& args, int64_t heads,
             void* scratch) {
    ScratchArena arena(scratch);
    const auto take = [&](auto*& to, int64_t count) {
      to = static_cast<std::remove_reference_t<decltype(to)>>(
          arena.take(count * int64_t(sizeof(*to))));
    };
    const PlanNode& total = table.total;
    const auto count = int64_t(table.nodes.size());
    take(nodes, count);
    if (args.mode == Mode::kMeans) {
      const int64_t width = args.num_buckets + 1, samples = total.part[kSample].at;
      take(partial,
           heads * std::max<int64_t>(total.key_chunk, p.group() * total.probe_chunk) * p.d);
      take(mean, heads * count * p.d), take(probe, heads * count * p.d);
      for (DirectionArrays* all : {&drawn, &chained}) {
        *all = DirectionArrays::of(p.dtype, p.d);
        all->count = total.centroid;
        all->parts = arena.take(heads * all->split * all->count * all->width * dtype_size(p.dtype));
        take(all->bias, heads * all->count);
      }
      take(candidates, heads * total.candidate * p.d), take(nearness, heads * total.candidate);
      take(sample_ids, heads * samples), take(sample_order, heads * samples);
      take(offsets, heads * count * width);
      take(counts, heads * width * std::max(total.part[kSample].walker, total.part[kKeys].walker));
      take(gram, heads * total.gram);
      take(chain, heads * total.centroid), take(visited, heads * total.centroid);
      take(key_ids, heads * total.part[kKeys].at);
      if (args.keep > 0) take(scores, heads * total.part[kKeys].at);
    } else {
      const int64_t width = (int64_t(1) << args.bits) + 1;
      take(key_ids, heads * p.nk), take(query_ids, heads * p.group() * p.nq);
      take(offsets, heads * p.group() * count * width);
      take(counts, heads * width *
                       std::max<int64_t>(total.part[kKeys].walker,
                                         p.group() * total.part[kQueries].walker));
    }
    bytes = arena.used();
  }
};

int64_t batch_heads(const Problem& p, const NodeTable& table, const PlanArgs& args) {
  const int64_t one = std::max<int64_t>(1, PlanMemory(p, table, args, 1, nullptr).bytes);
  return std::clamp<int64_t>(kBatchBytes / one, 1, std::max<int64_t>(1, p.batch * p.k_heads));
}

class Planner {
 public:
  Planner(const Problem& p, const NodeTable& table, const PlanArgs& args, const PlanSeed& seed,
          const PlanOutputs& out, const PlanMemory& memory, cudaStream_t stream)
      : p_(p),
        table_(table),
        args_(args),
        seed_(seed),
        out_(out),
        m_(memory),
        stream_(stream),
        q_(head_rows(p.dtype, p.q, p.q_heads, p.d)),
        k_(head_rows(p.dtype, p.k, p.k_heads, p.d)),
        count_(int(table.nodes.size())) {}

  LaunchStatus run(int64_t batch) {
    then([&] {
      return thrifty::cuda::upload(table_.nodes.data(), count_ * int64_t(sizeof(PlanNode)),
                                   m_.nodes, stream_);
    });
    const int64_t all = p_.batch * p_.k_heads;
    for (first_ = 0; first_ < all; first_ += batch) {
      heads_ = std::min(batch, all - first_);
      if (args_.mode == Mode::kMeans) {
        plan_means();
      } else {
        plan_paper();
      }
    }
    return status_;
  }

 private:
  template <class Start>
  void then(const Start& start) {
    if (status_.ok()) status_ = start();
  }
  const PlanNode& total() const { return table_.total; }
  const float* mean() const { return args_.center ? m_.mean : nullptr; }
  // Of the batch's query heads.
  int64_t q_first() const { return first_ * p_.group(); }
  int64_t q_heads() const { return heads_ * p_.group(); }

  void plan_means() {
    if (args_.center) {
      then([&] {
        return node_means({m_.nodes, count_, kKeys, k_, first_, heads_, 1, total().key_chunk,
                           m_.partial, m_.mean},
                          stream_);
      });
    }
    make_centroids();
    chain();
    const float* const bias = args_.center ? m_.chained.bias : nullptr;
    const int64_t keys = total().part[kKeys].at, queries = total().part[kQueries].at;
    nearest_of(kKeys, m_.chained, bias, m_.key_ids, keys);
    keep();
    sort({.part = kKeys,
          .heads = heads_,
          .ids = m_.key_ids,
          .ids_stride = keys,
          .buckets = args_.num_buckets,
          .offsets = out_.offsets + first_ * count_ * (args_.num_buckets + 1),
          .order = out_.order + first_ * keys,
          .stride = keys});
    nearest_of(kQueries, m_.chained, nullptr, out_.q_window + q_first() * queries, queries);
  }

  void plan_paper() {
    const int64_t keys = total().part[kKeys].at, queries = total().part[kQueries].at;
    const int64_t buckets = int64_t(1) << args_.bits;
    hash(k_, first_, heads_, p_.nk, m_.key_ids);
    hash(q_, q_first(), q_heads(), p_.nq, m_.query_ids);
    sort({.part = kKeys,
          .heads = heads_,
          .ids = m_.key_ids,
          .ids_stride = p_.nk,
          .by_row = true,
          .buckets = buckets,
          .offsets = m_.offsets,
          .order = out_.order + first_ * keys,
          .stride = keys});
    sort({.part = kQueries,
          .heads = q_heads(),
          .ids = m_.query_ids,
          .ids_stride = p_.nq,
          .by_row = true,
          .buckets = buckets,
          .offsets = m_.offsets,
          .order = out_.q_window + q_first() * queries,
          .stride = queries,
          .window = args_.window});
    if (args_.residual == 0) return;
    then([&] {
      return draw_residual({m_.nodes, count_, heads_, args_.residual, seed_,
                            out_.samples + first_ * count_ * args_.residual},
                           stream_);
    });
  }

  void make_centroids() {
    CentroidArgs centroids;
    centroids.nodes = m_.nodes, centroids.node_count = count_;
    centroids.rows = k_, centroids.head = first_, centroids.heads = heads_;
    centroids.mean = mean(), centroids.directions = m_.drawn, centroids.seed = seed_;
    centroids.order = m_.sample_order, centroids.offsets = m_.offsets;
    centroids.samples = total().part[kSample].at, centroids.width = args_.num_buckets + 1;
    centroids.candidate_count = total().candidate;
    centroids.candidates = m_.candidates, centroids.nearness = m_.nearness;
    centroids.chosen = m_.chain;  // which is made later
    then([&] { return spread_centroids(centroids, stream_); });
    for (int step = 0; step < kLloydSteps; ++step) {
      nearest_of(kSample, m_.drawn, args_.center ? m_.drawn.bias : nullptr, m_.sample_ids,
                 centroids.samples);
      sort({.part = kSample,
            .heads = heads_,
            .ids = m_.sample_ids,
            .ids_stride = centroids.samples,
            .buckets = args_.num_buckets,
            .offsets = m_.offsets,
            .order = m_.sample_order,
            .stride = centroids.samples});
      then([&] { return move_centroids(centroids, stream_); });
    }
  }

  void chain() {
    GramArgs products{m_.nodes, count_,  heads_,       int(p_.d),
                      m_.drawn, m_.gram, total().gram, total().gram_tile};
    then([&] { return gram(p_.dtype, products, stream_); });
    then([&] {
      return chain_centroids({m_.nodes, count_, heads_, p_.dtype, m_.gram, total().gram, m_.chain,
                              m_.visited, m_.drawn, m_.chained},
                             stream_);
    });
  }

  // Keys by the mean of the earlier queries of all query heads.
  void keep() {
    if (args_.keep == 0) return;
    const int64_t keys = total().part[kKeys].at;
    then([&] {
      return node_means({m_.nodes, count_, kProbes, q_, q_first(), q_heads(), int(p_.group()),
                         total().probe_chunk, m_.partial, m_.probe},
                        stream_);
    });
    ThinArgs scores;
    scores.rows = k_, scores.head = first_, scores.heads = heads_;
    scores.nodes = m_.nodes, scores.node_count = count_, scores.tiles = total().part[kKeys].tile;
    scores.mean = mean(), scores.planes = m_.probe, scores.scores = m_.scores;
    scores.stride = keys;
    then([&] { return key_scores(scores, stream_); });
    then([&] {
      return keep_keys({m_.nodes, count_, heads_, args_.keep, m_.scores, m_.key_ids, keys,
                        int32_t(args_.num_buckets)},
                       stream_);
    });
  }

  void nearest_of(Part part, const DirectionArrays& directions, const float* bias, int32_t* ids,
                  int64_t stride) {
    const bool queries = part == kQueries;
    NearestArgs args;
    args.nodes = m_.nodes, args.node_count = count_, args.part = part;
    args.rows = queries ? q_ : k_, args.head = queries ? q_first() : first_;
    args.heads = queries ? q_heads() : heads_, args.group = queries ? int(p_.group()) : 1;
    args.directions = directions, args.bias = bias;
    args.ids = ids, args.stride = stride, args.tiles = total().part[part].tile;
    then([&] { return nearest(args, stream_); });
  }

  void hash(const HeadRows& rows, int64_t head, int64_t heads, int64_t n, int32_t* ids) {
    ThinArgs args;
    args.rows = rows, args.head = head, args.heads = heads;
    args.n = args.stride = n, args.tiles = int(ceil_div(n, kTile));
    args.planes = args_.planes, args.bits = int(args_.bits), args.ids = ids;
    then([&] { return plane_signs(args, stream_); });
  }

  void sort(NodeSort sort) {
    sort.nodes = m_.nodes, sort.node_count = count_, sort.counts = m_.counts;
    sort.walkers = total().part[sort.part].walker;
    then([&] { return node_sort(sort, stream_); });
  }

  const Problem& p_;
  const NodeTable& table_;
  const PlanArgs& args_;
  const PlanSeed& seed_;
  const PlanOutputs& out_;
  const PlanMemory& m_;
  cudaStream_t stream_;
  HeadRows q_, k_;
  int count_;
  int64_t first_ = 0, heads_ = 0;
  LaunchStatus status_;
};

}  // namespace

int64_t hyper_plan_scratch(const Problem& problem, const Layout& layout, const PlanArgs& args) {
  const NodeTable table(layout, args);
  return PlanMemory(problem, table, args, batch_heads(problem, table, args), nullptr).bytes;
}

LaunchStatus hyper_plan(const Problem& problem, const Layout& layout, const PlanArgs& args,
                        const PlanSeed& seed, const PlanOutputs& outputs, void* scratch,
                        cudaStream_t stream) {
  const NodeTable table(layout, args);
  if (table.nodes.empty() || problem.batch * problem.k_heads == 0) return {};
  const int64_t batch = batch_heads(problem, table, args);
  const PlanMemory memory(problem, table, args, batch, scratch);
  return Planner(problem, table, args, seed, outputs, memory, stream).run(batch);
}

}  // namespace thrifty::attention::cuda
