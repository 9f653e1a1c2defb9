#include <algorithm>

#include "attention/core_call.h"
#include "attention/list_bwd_cuda.h"

namespace thrifty::attention::cuda {
namespace {

// A node's queries are split for its list's gradient, because the list is short: a share of at
// least 32 tiles each, whose sums are added in order.
constexpr int kMaxSplits = 16, kTilesPerSplit = 32;

class Backward {
 public:
  Backward(const HyperCall& call, const BackwardArgs& grads, void* scratch)
      : call_(call),
        p_(call.hyper.problem),
        grads_(grads),
        width_(int(std::max(p_.d, p_.dv))),
        rows_(bwd_rows(p_.dtype, width_)),
        size_(dtype_size(p_.dtype)),
        sum_(p_.dtype == Dtype::kFloat64 ? 8 : 4),
        arena_(scratch),
        core_(call, rows_, rows_, arena_) {
    const Table& table = core_.table();
    args_.core = core_.args();
    args_.dout = core_rows(p_, grads.dout, p_.dv);
    args_.lse = grads.lse, args_.q_tiles = table.q_tiles;
    delta_ = arena_.take(p_.heads() * p_.nq * sum_);
    args_.delta = delta_;
    args_.bounds = static_cast<int32_t*>(arena_.take(p_.heads() * table.q_tiles * 8));
    args_.dq_out = grads.dq;
    args_.dq = table.merged ? sums(grads.dq, q_count()) : nullptr;
    args_.dk = sums(grads.dk, k_count()), args_.dv = sums(grads.dv, v_count());
    int64_t list = 0;
    for (const Stage& stage : table.stages) {
      list = std::max(list, splits(stage) * (stage.last_entry - stage.first_entry));
    }
    args_.list_grads = arena_.take(p_.batch * p_.k_heads * list * (p_.d + p_.dv + 2) * sum_);
  }
  int64_t scratch_bytes() const { return arena_.used(); }

  LaunchStatus run(cudaStream_t stream) {
    stream_ = stream;
    clear();
    if (p_.heads() * p_.nq > 0 && !core_.table().parts.empty()) {
      then([&] {
        return make_delta(p_.dtype,
                          {args_.dout, grads_.out, grads_.dlse, delta_, p_.heads() * p_.nq,
                           int(p_.nq), int(p_.q_heads), int(p_.dv)},
                          stream_);
      });
      then([&] { return core_.prepare(stream_); });
      for (const Stage& stage : core_.table().stages) run(stage);
    }
    round(args_.dk, grads_.dk, k_count()), round(args_.dv, grads_.dv, v_count());
    return status_;
  }

 private:
  template <class Start>
  void then(const Start& start) {
    if (status_.ok()) status_ = start();
  }
  int64_t q_count() const { return p_.heads() * p_.nq * p_.d; }
  int64_t k_count() const { return p_.batch * p_.k_heads * p_.nk * p_.d; }
  int64_t v_count() const { return p_.batch * p_.k_heads * p_.nk * p_.dv; }
  // In the gradient itself where its format is that of sums.
  void* sums(void* grad, int64_t count) { return size_ == sum_ ? grad : arena_.take(count * sum_); }
  void round(const void* from, void* to, int64_t count) {
    if (size_ == sum_) return;
    then([&] { return round_sums(p_.dtype, from, count, to, stream_); });
  }
  int splits(const Stage& stage) const {
    const int tiles = int(ceil_div(stage.max_queries, rows_));
    return std::clamp(tiles / kTilesPerSplit, 1, kMaxSplits);
  }

  void clear() {
    if (!core_.table().covered) {
      then([&] { return round_sums(p_.dtype, nullptr, q_count(), grads_.dq, stream_); });
    }
    const auto zeros = [&](void* to, int64_t count) {
      then([&] { return clear_sums(p_.dtype, to, count, stream_); });
    };
    zeros(args_.dk, k_count()), zeros(args_.dv, v_count());
    const GivenList& list = call_.hyper.given.list;
    const int64_t entries = p_.batch * p_.k_heads * list.count;
    if (list.k == nullptr || !core_.table().parts.empty()) return;
    zeros(grads_.given.k, entries * p_.d), zeros(grads_.given.v, entries * p_.dv);
    zeros(grads_.given.logw, entries), zeros(grads_.given.var, entries);
  }

  void run(const Stage& stage) {
    const auto pass = [&](BwdPass kind, Tiles tiles, const char* name) {
      args_.tiles = tiles;
      then([&] { return LaunchStatus{launch_bwd(p_.dtype, width_, kind, args_, stream_), name}; });
    };
    args_.listed = false, args_.splits = 1;
    pass(BwdPass::kQueries, stage.queries, "core_bwd_queries");
    if (stage.keys.count > 0) pass(BwdPass::kColumns, stage.keys, "core_bwd_columns");
    if (stage.entries.count == 0) return;
    args_.listed = true, args_.splits = splits(stage);
    args_.first_entry = stage.first_entry, args_.entries = stage.last_entry - stage.first_entry;
    pass(BwdPass::kColumns, stage.entries, "core_bwd_columns");
    const bool given = call_.hyper.given.list.k != nullptr;
    const GivenGrads& g = grads_.given;
    then([&] {
      return spread_list(p_.dtype, args_, stage,
                         given ? GivenOut{g.k, g.v, g.logw, g.var} : GivenOut{}, stream_);
    });
  }

  const HyperCall& call_;
  const Problem& p_;
  BackwardArgs grads_;
  int width_, rows_;
  int64_t size_, sum_;
  ScratchArena arena_;
  CoreCall core_;
  BwdArgs args_;
  void* delta_ = nullptr;
  cudaStream_t stream_ = nullptr;
  LaunchStatus status_;
};

}  // namespace

int64_t hyper_bwd_scratch(const HyperCall& call) {
  return Backward(call, BackwardArgs{}, nullptr).scratch_bytes();
}

LaunchStatus hyper_bwd(const HyperCall& call, const BackwardArgs& grads, void* scratch,
                       cudaStream_t stream) {
  return Backward(call, grads, scratch).run(stream);
}

}  // namespace thrifty::attention::cuda
