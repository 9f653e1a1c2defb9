#include "attention/core_call.h"

#include <algorithm>

namespace thrifty::attention::cuda {

int access_bytes(const void* data, int64_t size, std::initializer_list<int64_t> elements) {
  int64_t bytes = 16;
  const auto divides = [&](int64_t value) {
    while (value % bytes != 0) bytes /= 2;
  };
  divides(int64_t(reinterpret_cast<uintptr_t>(data) % 16));
  for (const int64_t count : elements) divides(count * size);
  return int(bytes);
}

CoreRows core_rows(const Problem& problem, const Heads& heads, int64_t width) {
  return {heads.data, heads.batch_stride, heads.head_stride, heads.row_stride,
          access_bytes(heads.data, dtype_size(problem.dtype),
                       {heads.batch_stride, heads.head_stride, heads.row_stride, width})};
}

CoreCall::CoreCall(const HyperCall& call, int q_rows, int columns, ScratchArena& arena)
    : call_(call),
      q_rows_(q_rows),
      columns_(columns),
      table_(make_table(call.hyper, q_rows, columns)),
      device_(table_, arena) {
  const Problem& p = call.hyper.problem;
  const Plan& plan = call.hyper.plan;
  args_.q = core_rows(p, p.q, p.d), args_.k = core_rows(p, p.k, p.d);
  args_.v = core_rows(p, p.v, p.dv);
  args_.scale = p.scale;
  args_.batch = int(p.batch), args_.q_heads = int(p.q_heads), args_.k_heads = int(p.k_heads);
  args_.nq = int(p.nq), args_.nk = int(p.nk), args_.d = int(p.d), args_.dv = int(p.dv);
  args_.order = plan.order, args_.offsets = plan.offsets, args_.q_window = plan.q_window;
  args_.samples = plan.samples;
  args_.q_total = plan.layout.q_total, args_.k_total = plan.layout.k_total;
  args_.nodes = int(plan.layout.nodes.size()), args_.num_buckets = int(plan.num_buckets);
  args_.window = int(plan.window), args_.paper = plan.mode == Mode::kPaper;
  args_.windows = call.hyper.given.windows, args_.q_order = call.q_order;
  args_.q_offsets = call.q_offsets, args_.window_count = int(call.hyper.given.window_count);
  args_.parts = device_.parts, args_.q_tile_part = device_.q_tile_part;
  args_.k_tile_part = device_.k_tile_part, args_.list_tile_part = device_.list_tile_part;
  args_.list = plan_list(call.hyper, table_, arena);
  if (args_.windows == nullptr) {
    args_.q_rows =
        static_cast<int32_t*>(arena.take(p.heads() * args_.q_total * int64_t(sizeof(int32_t))));
  }
}

LaunchStatus CoreCall::prepare(cudaStream_t stream) const {
  LaunchStatus status = write_table(table_, q_rows_, columns_, device_, stream);
  if (status.ok() && args_.windows == nullptr) status = sort_queries(args_, table_, stream);
  if (status.ok()) status = make_lists(call_.hyper, args_, table_, stream);
  return status;
}

}  // namespace thrifty::attention::cuda
