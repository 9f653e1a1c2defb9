#include "attention/list_bwd_cuda.h"

#include "attention/core_rows.cuh"
#include "core/cuda/launch.h"
#include "core/product.cuh"

namespace thrifty::attention::cuda {
namespace {

constexpr int kWarps = kSpreadKeys, kThreads = kWarps * kWarpSize;
constexpr int kClearThreads = 256;

template <class Body>
LaunchStatus with_type(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kBFloat16: return body(bf16());
    case Dtype::kFloat16: return body(fp16());
    case Dtype::kFloat32: return body(float());
    default: return body(double());
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) core_delta_kernel(const DeltaArgs args) {
  using A = Sum<T>;
  const int64_t row = int64_t(blockIdx.x) * kWarps + warp_index();
  if (row >= args.rows) return;
  const T* const dout =
      head_of<T>(args.dout, row / args.nq, args.heads) + row % args.nq * args.dout.row;
  const T* const out = static_cast<const T*>(args.out) + row * args.dv;
  A sum = 0;
  for (int i = lane_index(); i < args.dv; i += kWarpSize) {
    sum += A(to_float(load_readonly(dout + i))) * A(to_float(load_readonly(out + i)));
  }
  sum = warp_sum(sum);
  if (lane_index() != 0) return;
  if (args.dlse != nullptr) sum -= static_cast<const A*>(args.dlse)[row];
  static_cast<A*>(args.delta)[row] = sum;
}

template <class T>
__global__ void __launch_bounds__(kClearThreads)
    core_round_kernel(const Sum<T>* sums, int64_t n, T* out) {
  const int64_t i = int64_t(blockIdx.x) * kClearThreads + threadIdx.x;
  if (i < n) out[i] = from_float<T>(sums == nullptr ? Sum<T>(0) : sums[i]);
}

struct SpreadArgs {
  BwdArgs bwd;
  GivenOut given;
  int first, parts, units;
};

// The gradient of one entry, over the splits in their order.
template <class A>
struct EntryGrad {
  const A* first;
  int64_t step;  // from split to split
  int splits;

  THRIFTY_DEVICE A operator()(int i) const {
    A sum = 0;
    for (int s = 0; s < splits; ++s) sum += first[s * step + i];
    return sum;
  }
};

template <class T>
struct Spread {
  using A = Sum<T>;
  const SpreadArgs& args;
  const CoreArgs& a;
  const CorePart& part;
  int64_t key_head;

  THRIFTY_DEVICE EntryGrad<A> grad(int entry) const {
    const BwdArgs& b = args.bwd;
    const int64_t heads = int64_t(a.batch) * a.k_heads, ld = a.d + a.dv + 2;
    const int64_t at = key_head * b.entries + (part.list_at - b.first_entry + entry);
    return {static_cast<const A*>(b.list_grads) + at * ld, heads * b.entries * ld, b.splits};
  }
  THRIFTY_DEVICE int64_t key_row(int sorted) const {
    return key_head * a.nk + key_at(a, part, key_head, sorted);
  }
  THRIFTY_DEVICE A* dk(int64_t row) const { return static_cast<A*>(args.bwd.dk) + row * a.d; }
  THRIFTY_DEVICE A* dv(int64_t row) const { return static_cast<A*>(args.bwd.dv) + row * a.dv; }

  // key = sum k / n, value = sum v / n, var = (sum |k|^2 / n - |key|^2) / D where that is positive:
  // dvar / dk_j = 2 (k_j - key) / (n D).
  THRIFTY_DEVICE void mean(int c, A* shared) const {
    const Window keys = bucket_keys(a, part, key_head, c);
    if (keys.begin == keys.end) return;
    const EntryGrad<A> sums = grad(c);
    const int64_t entry = key_head * a.list.total + part.list_at + c;
    const A share = A(1) / A(keys.end - keys.begin);
    const bool spread = static_cast<const A*>(a.list.var)[entry] > 0;
    const A dvar = spread ? sums(a.d + a.dv + 1) * 2 * share / A(a.d) : A(0);
    const T* const key = static_cast<const T*>(a.list.k) + entry * a.list.k_ld;
    for (int i = int(threadIdx.x); i < a.d + a.dv; i += kThreads) {
      A value = sums(i) * share;
      if (i < a.d) value = value * A(a.scale) - dvar * A(to_float(key[i]));
      shared[i] = value;
    }
    syncthreads();
    const T* const head = head_of<T>(a.k, key_head, a.k_heads);
    for (int at = keys.begin + warp_index(); at < keys.end; at += kWarps) {
      const int64_t row = key_row(at);
      const T* const k = head + (row - key_head * a.nk) * a.k.row;
      for (int i = lane_index(); i < a.d; i += kWarpSize) {
        A value = shared[i];
        if (dvar != 0) value += dvar * A(to_float(load_readonly(k + i)));
        dk(row)[i] += value;
      }
      for (int i = lane_index(); i < a.dv; i += kWarpSize) dv(row)[i] += shared[a.d + i];
    }
  }

  // A kept key, or a sample: the first of those that drew a key adds up for all of them.
  THRIFTY_DEVICE void single(int index) const {
    const int entry = part.buckets + index;
    if (args.given.k != nullptr) return store(index);
    if (index < part.kept) return add(entry, part.sorted + index);
    const int32_t* const samples = a.samples + (key_head * a.nodes + part.node) * part.samples;
    const auto drawn = [&](int i) { return between(load_readonly(samples + i), 0, part.keys - 1); };
    const int mine = index - part.kept, sorted = drawn(mine);
    bool earlier = false;
    for (int i = lane_index(); i < mine; i += kWarpSize) earlier = earlier || drawn(i) == sorted;
    if (warp_any(earlier)) return;
    for (int base = mine; base < part.samples; base += kWarpSize) {
      const int i = base + lane_index();
      uint32_t same = warp_ballot(i < part.samples && drawn(i) == sorted);
      for (; same != 0; same &= same - 1) {
        add(part.buckets + part.kept + base + find_first_set(same) - 1, sorted);
      }
    }
  }
  THRIFTY_DEVICE void add(int entry, int sorted) const {
    const EntryGrad<A> sums = grad(entry);
    const int64_t row = key_row(sorted);
    for (int i = lane_index(); i < a.d; i += kWarpSize) dk(row)[i] += A(a.scale) * sums(i);
    for (int i = lane_index(); i < a.dv; i += kWarpSize) dv(row)[i] += sums(a.d + i);
  }
  THRIFTY_DEVICE void store(int index) const {
    const EntryGrad<A> sums = grad(index);
    const int64_t at = key_head * part.samples + index;
    A *const k = static_cast<A*>(args.given.k), *const v = static_cast<A*>(args.given.v);
    for (int i = lane_index(); i < a.d; i += kWarpSize) k[at * a.d + i] = A(a.scale) * sums(i);
    for (int i = lane_index(); i < a.dv; i += kWarpSize) v[at * a.dv + i] = sums(a.d + i);
    if (lane_index() != 0) return;
    static_cast<A*>(args.given.logw)[at] = sums(a.d + a.dv);
    static_cast<A*>(args.given.var)[at] = sums(a.d + a.dv + 1);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads, 4)
    list_spread_kernel(const __grid_constant__ SpreadArgs args) {
  THRIFTY_SHARED(Sum<T>, shared, [512]);
  const int unit = int(blockIdx.x) % args.units, rest = int(blockIdx.x) / args.units;
  const CoreArgs& a = args.bwd.core;
  const CorePart& part = a.parts[args.first + rest % args.parts];
  const Spread<T> spread{args, a, part, rest / args.parts};
  if (unit < part.buckets) return spread.mean(unit, shared);
  const int index = (unit - part.buckets) * kWarps + warp_index();
  if (index < part.kept + part.samples) spread.single(index);
}

}  // namespace

LaunchStatus make_delta(Dtype dtype, const DeltaArgs& args, cudaStream_t stream) {
  dim3 grid;
  if (!one_dimensional_grid(ceil_div(args.rows, kWarps), grid)) {
    return {cudaErrorInvalidValue, "core_delta"};
  }
  return with_type(dtype, [&](auto type) {
    return LaunchStatus{
        launch(core_delta_kernel<decltype(type)>, grid, dim3(kThreads), 0, stream, args),
        "core_delta"};
  });
}

LaunchStatus round_sums(Dtype dtype, const void* sums, int64_t n, void* out, cudaStream_t stream) {
  dim3 grid;
  if (!one_dimensional_grid(ceil_div(n, kClearThreads), grid)) {
    return {cudaErrorInvalidValue, "core_round"};
  }
  return with_type(dtype, [&](auto type) {
    using T = decltype(type);
    return LaunchStatus{launch(core_round_kernel<T>, grid, dim3(kClearThreads), 0, stream,
                               static_cast<const Sum<T>*>(sums), n, static_cast<T*>(out)),
                        "core_round"};
  });
}

LaunchStatus clear_sums(Dtype dtype, void* sums, int64_t n, cudaStream_t stream) {
  return round_sums(dtype == Dtype::kFloat64 ? dtype : Dtype::kFloat32, nullptr, n, sums, stream);
}

LaunchStatus spread_list(Dtype dtype, const BwdArgs& args, const Stage& stage,
                         const GivenOut& given, cudaStream_t stream) {
  const SpreadArgs spread{args, given, stage.first, stage.count, stage.max_units};
  dim3 grid;
  if (!one_dimensional_grid(
          int64_t(spread.units) * spread.parts * args.core.batch * args.core.k_heads, grid)) {
    return {cudaErrorInvalidValue, "list_spread"};
  }
  return with_type(dtype, [&](auto type) {
    return LaunchStatus{
        launch(list_spread_kernel<decltype(type)>, grid, dim3(kThreads), 0, stream, spread),
        "list_spread"};
  });
}

}  // namespace thrifty::attention::cuda
