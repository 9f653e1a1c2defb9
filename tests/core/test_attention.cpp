// HyperAttention on the CPU against loops in double: hyper_core with every kind of list, leaves,
// and what must not change a bit. Built once more with the vectors of AVX-512 and the tiles of AMX
// (CMakeLists.txt), whose products take bfloat16 operands.
#include <numeric>
#include <vector>

#include "attention/check.h"
#include "check.h"
#include "guarded.h"

namespace thrifty::test {
namespace {

using namespace attention;

constexpr int64_t kNq = 150, kNk = 300, kD = 20, kDv = 12, kEntries = 40, kWindows = 4;
constexpr double kScale = 0.3;

Array array_of(const void* data, Dtype dtype, std::initializer_list<int64_t> shape) {
  Array a{.data = const_cast<void*>(data), .dtype = dtype, .ndim = int(shape.size())};
  std::copy(shape.begin(), shape.end(), a.shape.begin());
  for (int64_t d = a.ndim - 1, step = 1; d >= 0; step *= a.shape[size_t(d--)]) {
    a.strides[size_t(d)] = step;
  }
  return a;
}

Dtype sums(Dtype dtype) { return dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32; }

// A call of hyper_core: one key head, two query heads.
struct Core {
  Dtype dtype;
  Guarded q, k, v, list_k, list_v, logw, var;
  std::vector<int32_t> q_order, q_offsets, k_order, windows, range, q_window;
  Hyper hyper;

  Core(Dtype dtype, Random& random)
      : dtype(dtype),
        q(dtype, 2 * kNq * kD, [&] { return random.quarter(); }),
        k(dtype, kNk * kD, [&] { return random.quarter(); }),
        v(dtype, kNk * kDv, [&] { return random.quarter(); }),
        list_k(dtype, kEntries * kD, [&] { return random.quarter(); }),
        list_v(dtype, kEntries * kDv, [&] { return random.quarter(); }),
        logw(sums(dtype), kEntries, [&] { return random.quarter(); }),
        var(sums(dtype), kEntries, [&] { return 0.25 + random.quarter() / 4; }),
        windows{0, 290, 250, 300, 17, 81, 40, 40} {
    const auto shuffled = [&](int64_t n) {
      std::vector<int32_t> order(static_cast<size_t>(n));
      std::iota(order.begin(), order.end(), 0);
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.bits() % i]);
      return order;
    };
    k_order = shuffled(kNk);
    for (int head = 0; head < 2; ++head) {
      const std::vector<int32_t> order = shuffled(kNq);
      q_order.insert(q_order.end(), order.begin(), order.end());
      for (const int32_t at : {0, 10, 115, 130, 140}) q_offsets.push_back(at);  // 10 have no window
    }
    for (int64_t e = 0; e < kEntries; ++e) {
      const auto low = int32_t(random.bits() % 290);
      range.push_back(low), range.push_back(e % 3 == 0 ? low : low + int32_t(random.bits() % 10));
    }
    hyper = check_core(
        {array_of(q.data(), dtype, {1, 2, kNq, kD}), array_of(k.data(), dtype, {1, 1, kNk, kD}),
         array_of(v.data(), dtype, {1, 1, kNk, kDv}),
         array_of(q_order.data(), Dtype::kInt32, {1, 2, kNq}),
         array_of(q_offsets.data(), Dtype::kInt32, {1, 2, kWindows + 1}),
         array_of(k_order.data(), Dtype::kInt32, {1, 1, kNk}),
         array_of(windows.data(), Dtype::kInt32, {1, 1, kWindows, 2}),
         array_of(list_k.data(), dtype, {1, 1, kEntries, kD}),
         array_of(list_v.data(), dtype, {1, 1, kEntries, kDv}),
         array_of(logw.data(), sums(dtype), {1, 1, kEntries}),
         array_of(range.data(), Dtype::kInt32, {1, 1, kEntries, 2}),
         array_of(var.data(), sums(dtype), {1, 1, kEntries}), kScale},
        q_window);
  }
};

// A column that a row sees: a key (entry < 0) or an entry, its score, and what is left of it.
struct Column {
  int64_t key, entry;
  double x, left;
};

double dot(const Guarded& a, int64_t i, const Guarded& b, int64_t j, int64_t n) {
  double sum = 0;
  for (int64_t c = 0; c < n; ++c) sum += a[i * n + c] * b[j * n + c];
  return sum;
}

std::vector<Column> columns_of(const Core& core, int64_t row) {
  std::vector<Column> columns;
  const auto window = size_t(core.q_window[size_t(row)]);
  const bool has = window < size_t(kWindows);
  const int64_t begin = has ? core.windows[2 * window] : 0;
  const int64_t end = has ? core.windows[2 * window + 1] : 0;
  for (int64_t at = begin; at < end; ++at) {
    const int64_t key = core.k_order[size_t(at)];
    columns.push_back({key, -1, kScale * dot(core.q, row, core.k, key, kD), 1});
  }
  const double q2 = kScale * kScale / 2 * dot(core.q, row, core.q, row, kD);
  for (int64_t e = 0; e < kEntries; ++e) {
    const int64_t low = core.range[size_t(2 * e)], high = core.range[size_t(2 * e + 1)];
    const int64_t covered = std::max<int64_t>(0, std::min(end, high) - std::max(begin, low));
    const double left = 1 - double(covered) / double(std::max<int64_t>(high - low, 1));
    const double x =
        kScale * dot(core.q, row, core.list_k, e, kD) + core.logw[e] + q2 * core.var[e];
    if (left > 0) columns.push_back({-1, e, x, left});
  }
  return columns;
}

struct Result {
  Guarded out, lse;
  Result(Dtype dtype, int64_t rows) : out(dtype, rows * kDv), lse(sums(dtype), rows) {}
};

Result forward(const Core& core, ParallelFor parallel) {
  Result result(core.dtype, 2 * kNq);
  hyper_fwd(core.hyper, static_cast<std::byte*>(result.out.data()),
            static_cast<std::byte*>(result.lse.data()), parallel);
  return result;
}

double tolerance(Dtype dtype) {
  return dtype == Dtype::kFloat64    ? 1e-12
         : dtype == Dtype::kFloat32  ? 2e-5
         : dtype == Dtype::kBFloat16 ? 4e-2  // operands p and ds too, where AMX multiplies
                                     : 4e-3;
}

void expect_near(const char* what, Dtype dtype, const Guarded& got, const std::vector<double>& want,
                 double unit) {
  for (int64_t i = 0; i < got.size(); ++i) {
    const double w = want[size_t(i)];
    EXPECT(std::fabs(got[i] - w) <= unit * (1 + std::fabs(w)), dtype_name(dtype), " ", what, "[", i,
           "]: got ", got[i], ", want ", w);
  }
  EXPECT(got.intact(), dtype_name(dtype), " ", what);
}

void core_is_its_definition() {
  Random random(1);
  set_num_threads(3);
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64}) {
    const Core core(dtype, random);
    const Result result = forward(core, serial);
    std::vector<double> out(2 * kNq * kDv), lse(2 * kNq);
    std::vector<double> dq(2 * kNq * kD), dk(kNk * kD), dv(kNk * kDv), dlist_k(kEntries * kD),
        dlist_v(kEntries * kDv), dlogw(kEntries), dvar(kEntries);
    const Guarded dout(dtype, 2 * kNq * kDv, [&] { return random.quarter(); });
    const Guarded dlse(sums(dtype), 2 * kNq, [&] { return random.quarter(); });
    for (int64_t row = 0; row < 2 * kNq; ++row) {
      const std::vector<Column> columns = columns_of(core, row);
      double total = 0, delta = -dlse[row];
      for (const Column& c : columns) total += c.left * std::exp(c.x);
      lse[size_t(row)] = std::log(total);
      const auto value = [&](const Column& c, int64_t i) {
        return c.entry < 0 ? core.v[c.key * kDv + i] : core.list_v[c.entry * kDv + i];
      };
      for (const Column& c : columns) {
        for (int64_t i = 0; i < kDv; ++i) {
          out[size_t(row * kDv + i)] += c.left * std::exp(c.x) / total * value(c, i);
        }
      }
      for (int64_t i = 0; i < kDv; ++i) delta += dout[row * kDv + i] * out[size_t(row * kDv + i)];
      const double q2 = kScale * kScale / 2 * dot(core.q, row, core.q, row, kD);
      for (const Column& c : columns) {
        const bool listed = c.entry >= 0;
        const int64_t at = listed ? c.entry : c.key;
        const double p = c.left * std::exp(c.x) / total;
        double dp = 0;
        for (int64_t i = 0; i < kDv; ++i) {
          dp += dout[row * kDv + i] * value(c, i);
          (listed ? dlist_v : dv)[size_t(at * kDv + i)] += p * dout[row * kDv + i];
        }
        const double ds = p * (dp - delta);
        if (listed) dlogw[size_t(at)] += ds, dvar[size_t(at)] += ds * q2;
        for (int64_t i = 0; i < kD; ++i) {
          const double q = core.q[row * kD + i];
          (listed ? dlist_k : dk)[size_t(at * kD + i)] += kScale * ds * q;
          dq[size_t(row * kD + i)] += kScale * ds * (listed ? core.list_k : core.k)[at * kD + i] +
                                      (listed ? ds * core.var[at] * kScale * kScale * q : 0);
        }
      }
    }
    const double unit = tolerance(dtype);
    expect_near("out", dtype, result.out, out, unit);
    expect_near("lse", dtype, result.lse, lse, dtype == Dtype::kFloat64 ? 1e-12 : 1e-4);
    Guarded got_dq(dtype, 2 * kNq * kD), got_dk(dtype, kNk * kD), got_dv(dtype, kNk * kDv);
    const auto zero = [] { return 0.0; };
    const Dtype sum = sums(dtype);
    Guarded got_k(sum, kEntries * kD, zero), got_v(sum, kEntries * kDv, zero);
    Guarded got_logw(sum, kEntries, zero), got_var(sum, kEntries, zero);
    const auto bytes = [](Guarded& g) { return static_cast<std::byte*>(g.data()); };
    const auto read = [](const Guarded& g) { return static_cast<const std::byte*>(g.data()); };
    hyper_bwd(core.hyper,
              {heads_of(array_of(dout.data(), dtype, {1, 2, kNq, kDv})),
               read(dlse),
               read(result.out),
               read(result.lse),
               bytes(got_dq),
               bytes(got_dk),
               bytes(got_dv),
               {bytes(got_k), bytes(got_v), bytes(got_logw), bytes(got_var)}},
              pool);
    // Sums of up to 300 rows, whose errors are not all of one sign.
    expect_near("dq", dtype, got_dq, dq, 2 * unit), expect_near("dk", dtype, got_dk, dk, 4 * unit);
    expect_near("dv", dtype, got_dv, dv, 4 * unit);
    expect_near("dlist_k", dtype, got_k, dlist_k, 4 * unit);
    expect_near("dlist_v", dtype, got_v, dlist_v, 4 * unit);
    expect_near("dlogw", dtype, got_logw, dlogw, 4 * unit);
    expect_near("dvar", dtype, got_var, dvar, 4 * unit);
  }
}

// A causal call of hyper_attention with its plan.
struct Causal {
  static constexpr int64_t kN = 700, kLeaf = 64;
  Dtype dtype;
  Guarded q, k, v;
  std::vector<float> planes;

  Causal(Dtype dtype, Random& random)
      : dtype(dtype),
        q(dtype, kN * kD, [&] { return random.quarter(); }),
        k(dtype, kN * kD, [&] { return random.quarter(); }),
        v(dtype, kN * kDv, [&] { return random.quarter(); }) {
    for (int64_t i = 0; i < 5 * kD; ++i) planes.push_back(float(random.uniform(-1, 1)));
  }

  Result run(const char* mode, ParallelFor parallel) {
    const Array key = array_of(k.data(), dtype, {1, 1, kN, kD});
    Hyper hyper{};
    hyper.problem = check_qkv("test", array_of(q.data(), dtype, {1, 1, kN, kD}), key,
                              array_of(v.data(), dtype, {1, 1, kN, kDv}), kScale);
    PlanArgs args = check_recipe("test", {mode, true, true, 16, 40, 24, 8, kLeaf});
    args.planes = planes.data(), args.bits = 5;
    const Layout layout = make_layout({0, kN}, {0, kN}, true, kLeaf);
    const auto nodes = int64_t(layout.nodes.size());
    const bool means = args.mode == Mode::kMeans;
    std::vector<int32_t> order(static_cast<size_t>(layout.k_total)), offsets(size_t(nodes * 17), 0),
        q_window(static_cast<size_t>(layout.q_total)), samples(size_t(nodes * 24), 0);
    hyper_plan(hyper.problem, layout, args,
               {order.data(), offsets.data(), q_window.data(), samples.data()}, parallel);
    hyper.plan =
        check_plan(hyper.problem, layout, args,
                   {array_of(order.data(), Dtype::kInt32, {1, 1, layout.k_total}),
                    array_of(offsets.data(), Dtype::kInt32, {1, 1, means ? nodes : 0, 17}),
                    array_of(q_window.data(), Dtype::kInt32, {1, 1, layout.q_total}),
                    array_of(samples.data(), Dtype::kInt32, {1, 1, means ? 0 : nodes, 24})});
    Result result(dtype, kN);
    hyper_fwd(hyper, static_cast<std::byte*>(result.out.data()),
              static_cast<std::byte*>(result.lse.data()), parallel);
    return result;
  }
};

// The first `rows` rows, bit for bit.
bool same_rows(const Result& a, const Result& b, int64_t rows, Dtype dtype) {
  const auto bytes = [&](int64_t n, Dtype d) { return size_t(n * dtype_size(d)); };
  return std::memcmp(a.out.data(), b.out.data(), bytes(rows * kDv, dtype)) == 0 &&
         std::memcmp(a.lse.data(), b.lse.data(), bytes(rows, sums(dtype))) == 0;
}

void what_changes_no_bit() {
  Random random(2);
  set_num_threads(3);
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat64}) {
    for (const char* mode : {"means", "paper"}) {
      Causal causal(dtype, random);
      const Result one = causal.run(mode, serial);
      EXPECT(same_rows(one, causal.run(mode, pool), Causal::kN, dtype), mode, ": threads");
      const bool means = mode[0] == 'm';
      for (const int64_t from : {699, 650, 500, 321, 64, 1}) {
        for (int64_t i = from; i < Causal::kN; ++i) {
          for (int64_t c = 0; c < kD; ++c) {
            causal.k.set(i * kD + c, random.quarter());
            if (means) causal.q.set(i * kD + c, random.quarter());
          }
          for (int64_t c = 0; c < kDv; ++c) causal.v.set(i * kDv + c, i % 7 == 0 ? NAN : 1);
        }
        EXPECT(same_rows(one, causal.run(mode, serial), from, dtype), dtype_name(dtype), " ", mode,
               ": what comes after row ", from);
      }
    }
  }
}

// The rows of a tile share blocks of columns; a row's window may begin behind one, or end before.
void windows_beside_a_block() {
  constexpr int64_t kColumns = 48;
  for (const Dtype dtype : {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat64}) {
    const Kit kit(dtype);
    const auto zero = [] { return 0.0; };
    for (const auto& [begin, end] : {std::pair(80, 300), std::pair(-300, -80)}) {
      Guarded s(sums(dtype), kColumns, zero), own(dtype, kColumns, zero);
      Guarded& p = kit.sums_are_operands() ? s : own;
      Guarded acc(sums(dtype), 16, zero), sum(sums(dtype), 1, zero);
      Guarded max(sums(dtype), 1, [] { return -__builtin_inf(); });
      const int32_t first = begin, last = end;
      ScoreBlock block{};
      block.rows = 1, block.columns = kColumns, block.padded = kColumns, block.scale = 1;
      block.s = s.data(), block.p = p.data(), block.ld = block.p_ld = kColumns;
      block.begin = &first, block.end = &last;
      kit.tile.softmax(block, {max.data(), sum.data(), acc.data(), 16, 16});
      EXPECT(s.intact() && own.intact(), dtype_name(dtype), " ", begin);
      EXPECT(sum[0] == 0 && max[0] < 0, dtype_name(dtype), " ", begin);
      for (int64_t i = 0; i < kColumns; ++i) EXPECT(p[i] == 0, dtype_name(dtype), " ", i);
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"core_is_its_definition", core_is_its_definition},
                    {"what_changes_no_bit", what_changes_no_bit},
                    {"windows_beside_a_block", windows_beside_a_block}});
}
