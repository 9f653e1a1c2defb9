// A block makes one bucket's mean, its warps taking every eighth key, or copies eight single keys,
// one a warp. Sums are added in an order that the plan fixes.
#include "attention/list_cuda.h"

#include "attention/core_window.cuh"
#include "core/cuda/block.cuh"
#include "core/cuda/index.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/math.cuh"
#include "core/product.cuh"

namespace thrifty::attention::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kWarps = 8, kThreads = kWarps * kWarpSize;
constexpr int kUnrolled = 4;  // keys that a warp has in flight

struct Given {
  const void *k, *v, *logw, *var;
  const int32_t* range;
};

struct ListArgs {
  CoreArgs core;
  Given given;
  int first, parts, units;
};

template <class T>
THRIFTY_DEVICE const T* row_of(const CoreRows& rows, int64_t key_head, int k_heads, int64_t row) {
  return static_cast<const T*>(rows.data) + key_head / k_heads * rows.batch +
         key_head % k_heads * rows.head + row * rows.row;
}

// Where a part's list of one head is.
template <class T>
struct ListAt {
  using A = Sum<T>;
  T *k, *v;
  A *logw, *var, *share;
  int32_t *at, *at_end;
  int k_ld, v_ld;

  THRIFTY_DEVICE ListAt(const ListRows& list, int64_t first)
      : k(static_cast<T*>(list.k) + first * list.k_ld),
        v(static_cast<T*>(list.v) + first * list.v_ld),
        logw(static_cast<A*>(list.logw) + first),
        var(static_cast<A*>(list.var) + first),
        share(static_cast<A*>(list.share) + first),
        at(list.at + first),
        at_end(list.at_end + first),
        k_ld(list.k_ld),
        v_ld(list.v_ld) {}

  // Of one thread.
  THRIFTY_DEVICE void set(int entry, A weight, int begin, int end) const {
    logw[entry] = weight;
    at[entry] = begin > 0 ? begin : 0;  // no window begins before
    at_end[entry] = end > 0 ? end : 0;
    share[entry] = A(1) / A(end > begin ? int64_t(end) - begin : 1);
  }
};

template <class T>
struct MeanShared {
  Sum<T> sums[kWarps][512];
  double norms[kWarps];
};

// The mean of bucket c, by all warps.
template <class T>
THRIFTY_DEVICE void make_mean(const CoreArgs& a, const CorePart& part, int64_t key_head, int c,
                              const ListAt<T>& list, MeanShared<T>& m) {
  using A = Sum<T>;
  const Window keys = bucket_keys(a, part, key_head, c);
  const int lane = lane_index(), warp = warp_index(), width = a.d + a.dv;
  const int n = keys.end - keys.begin;
  if (threadIdx.x == 0) {
    list.set(c, n > 0 ? A(log(A(n))) : -A(INFINITY), keys.begin, keys.end);
  }
  for (int i = lane; i < width; i += kWarpSize) m.sums[warp][i] = 0;
  double norm = 0;
  for (int at = keys.begin + warp; at < keys.end; at += kWarps * kUnrolled) {
    const T *k[kUnrolled], *v[kUnrolled];
#pragma unroll
    for (int u = 0; u < kUnrolled; ++u) {
      const int key = at + u * kWarps;
      const int row = key_at(a, part, key_head, key < keys.end ? key : at);
      k[u] = row_of<T>(a.k, key_head, a.k_heads, row);
      v[u] = row_of<T>(a.v, key_head, a.k_heads, row);
    }
    const int live = (keys.end - at - 1) / kWarps + 1;
    for (int i = lane; i < width; i += kWarpSize) {
      const bool of_k = i < a.d;
      A value[kUnrolled];
#pragma unroll
      for (int u = 0; u < kUnrolled; ++u) {
        value[u] = u < live ? A(to_float(load_readonly(of_k ? k[u] + i : v[u] + (i - a.d)))) : A(0);
      }
      A sum = m.sums[warp][i], square = 0;
#pragma unroll
      for (int u = 0; u < kUnrolled; ++u) {
        sum += value[u];
        square += value[u] * value[u];
      }
      m.sums[warp][i] = sum;
      if (of_k) norm += double(square);
    }
  }
  norm = warp_sum(norm);
  if (lane == 0) m.norms[warp] = norm;
  syncthreads();
  const A scale = A(1) / A(n > 0 ? n : 1);
  for (int i = int(threadIdx.x); i < width; i += kThreads) {
    A sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += m.sums[w][i];
    sum *= scale;
    m.sums[0][i] = sum;  // this thread alone reads and writes the column
    T* const to =
        i < a.d ? list.k + int64_t(c) * list.k_ld + i : list.v + int64_t(c) * list.v_ld + (i - a.d);
    *to = from_float<T>(sum);
  }
  for (int i = a.d + int(threadIdx.x); i < list.k_ld; i += kThreads) {
    list.k[int64_t(c) * list.k_ld + i] = from_float<T>(0.0f);
  }
  for (int i = a.dv + int(threadIdx.x); i < list.v_ld; i += kThreads) {
    list.v[int64_t(c) * list.v_ld + i] = from_float<T>(0.0f);
  }
  syncthreads();
  if (warp != 0) return;
  double square = 0, all = 0;
  for (int i = lane; i < a.d; i += kWarpSize) square += double(m.sums[0][i]) * double(m.sums[0][i]);
  square = warp_sum(square);
  for (int w = 0; w < kWarps; ++w) all += m.norms[w];
  const double spread = (all * double(scale) - square) / a.d;
  // A single key has no variance; what rounding leaves of it would be multiplied by |q|^2.
  if (lane == 0) list.var[c] = n > 1 && !(spread < 0) ? A(spread) : A(0);
}

// A kept key, a sample or an entry that is given, by one warp.
template <class T>
THRIFTY_DEVICE void copy_single(const ListArgs& args, const CorePart& part, int64_t key_head,
                                int single, const ListAt<T>& list) {
  using A = Sum<T>;
  const CoreArgs& a = args.core;
  const Given& given = args.given;
  const int entry = part.buckets + single;
  const T *k, *v;
  A weight = 0, var = 0;
  int begin = INT32_MAX, end = INT32_MAX;  // no window reaches this far
  if (given.k != nullptr) {
    const int64_t at = key_head * part.samples + single;
    k = static_cast<const T*>(given.k) + at * a.d, v = static_cast<const T*>(given.v) + at * a.dv;
    weight = static_cast<const A*>(given.logw)[at];
    if (given.var != nullptr) var = static_cast<const A*>(given.var)[at];
    if (given.range != nullptr && given.range[2 * at + 1] > given.range[2 * at]) {
      begin = given.range[2 * at], end = given.range[2 * at + 1];
    }
  } else {
    int sorted = part.sorted + single;
    if (single >= part.kept) {
      weight = A(log(A(part.sorted) / A(part.samples)));
      const int64_t first = (key_head * a.nodes + part.node) * part.samples;
      sorted = between(load_readonly(a.samples + first + single - part.kept), 0, part.keys - 1);
      begin = sorted, end = sorted + 1;
    }
    const int row = key_at(a, part, key_head, sorted);
    k = row_of<T>(a.k, key_head, a.k_heads, row), v = row_of<T>(a.v, key_head, a.k_heads, row);
  }
  if (lane_index() == 0) {
    list.set(entry, weight, begin, end);
    list.var[entry] = var;
  }
  for (int i = lane_index(); i < list.k_ld; i += kWarpSize) {
    list.k[int64_t(entry) * list.k_ld + i] = i < a.d ? load_readonly(k + i) : from_float<T>(0.0f);
  }
  for (int i = lane_index(); i < list.v_ld; i += kWarpSize) {
    list.v[int64_t(entry) * list.v_ld + i] = i < a.dv ? load_readonly(v + i) : from_float<T>(0.0f);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) list_kernel(const __grid_constant__ ListArgs args) {
  THRIFTY_SHARED(MeanShared<T>, shared, [1]);
  const CoreArgs& a = args.core;
  const int unit = int(blockIdx.x) % args.units, rest = int(blockIdx.x) / args.units;
  const CorePart& part = a.parts[args.first + rest % args.parts];
  const int64_t key_head = rest / args.parts;
  const ListAt<T> list(a.list, key_head * a.list.total + part.list_at);
  if (unit < part.buckets) return make_mean<T>(a, part, key_head, unit, list, shared[0]);
  const int single = (unit - part.buckets) * kWarps + warp_index();
  if (single < part.kept + part.samples) copy_single<T>(args, part, key_head, single, list);
}

}  // namespace

ListRows plan_list(const Hyper& hyper, const Table& table, ScratchArena& arena) {
  const Problem& p = hyper.problem;
  const int64_t size = dtype_size(p.dtype), sum = p.dtype == Dtype::kFloat64 ? 8 : 4;
  ListRows list;
  list.total = table.entries;
  list.k_ld = int(round_up(p.d, 16 / size)), list.v_ld = int(round_up(p.dv, 16 / size));
  const int64_t rows = p.batch * p.k_heads * list.total;
  list.k = arena.take(rows * list.k_ld * size), list.v = arena.take(rows * list.v_ld * size);
  list.logw = arena.take(rows * sum), list.var = arena.take(rows * sum);
  list.share = arena.take(rows * sum);
  list.at = static_cast<int32_t*>(arena.take(rows * 4));
  list.at_end = static_cast<int32_t*>(arena.take(rows * 4));
  list.with_var = hyper.given.windows != nullptr
                      ? hyper.given.list.var != nullptr
                      : hyper.plan.mode == Mode::kMeans && hyper.plan.residual > 0;
  return list;
}

LaunchStatus make_lists(const Hyper& hyper, const CoreArgs& args, const Table& table,
                        cudaStream_t stream) {
  if (table.entries == 0) return {};
  const GivenList& given = hyper.given.list;
  ListArgs list{args, {given.k, given.v, given.logw, given.var, given.range}, 0, 0, 0};
  while (table.parts[size_t(list.first)].node < 0) ++list.first;
  list.parts = int(table.parts.size()) - list.first;
  for (const CorePart& part : table.parts) {
    const int units = part.buckets + int(ceil_div(part.kept + part.samples, kWarps));
    if (units > list.units) list.units = units;
  }
  dim3 grid;
  if (!one_dimensional_grid(int64_t(list.units) * list.parts * args.batch * args.k_heads, grid)) {
    return {cudaErrorInvalidValue, "list"};
  }
  const auto start = [&](auto kernel) {
    return LaunchStatus{launch(kernel, grid, dim3(kThreads), 0, stream, list), "list"};
  };
  switch (hyper.problem.dtype) {
    case Dtype::kBFloat16: return start(list_kernel<bf16>);
    case Dtype::kFloat16: return start(list_kernel<fp16>);
    case Dtype::kFloat32: return start(list_kernel<float>);
    default: return start(list_kernel<double>);
  }
}

}  // namespace thrifty::attention::cuda
