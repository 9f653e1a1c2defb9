// batch_ensemble_mlp against loops in double: all reductions, with and without head, r, s and bias;
// few rows (layer by layer) and many (block by block); the same bits for every number of threads
// and with packed weights.
#include "check.h"
#include "ensemble/mlp.h"
#include "layer_problem.h"

namespace thrifty::test {
namespace {

using ensemble::Mlp;
using ensemble::MlpArgs;

struct NetworkSpec {
  Dtype dtype = Dtype::kFloat32;
  int64_t batch = 1, k = 1;
  std::vector<int64_t> widths;  // inputs, then the layers' outputs
  int64_t head = 0;             // outputs; 0: no head
  const char* reduce = "none";
  bool shared_x = true, sparse = false;  // sparse: some of r, s, bias and head_bias are absent

  std::string text() const {
    return concat(dtype_name(dtype), " batch ", batch, " k ", k, " layers ", widths.size() - 1,
                  " head ", head, " ", reduce, shared_x ? " shared x" : "",
                  sparse ? " sparse" : "");
  }
};

struct NetworkProblem {
  explicit NetworkProblem(const NetworkSpec& spec) : spec(spec) {
    Random random(5);
    const auto uniform = [&] { return random.uniform(-1, 1); };
    const int64_t k = spec.k;
    const auto optional = [&](bool there, std::vector<int64_t> shape) {
      return there ? Tensor(spec.dtype, std::move(shape), uniform)
                   : Tensor(spec.dtype, {0}, uniform);
    };
    x = spec.shared_x ? Tensor(spec.dtype, {spec.batch, spec.widths[0]}, uniform)
                      : Tensor(spec.dtype, {spec.batch, k, spec.widths[0]}, uniform);
    for (size_t l = 0; l + 1 < spec.widths.size(); ++l) {
      const int64_t in = spec.widths[l], out = spec.widths[l + 1];
      weight.push_back(Tensor(spec.dtype, {out, in}, uniform));
      r.push_back(optional(!spec.sparse || l == 1, {k, in}));
      s.push_back(optional(!spec.sparse || l == 0, {k, out}));
      bias.push_back(l == 1 ? Tensor(spec.dtype, {out}, uniform)
                            : optional(!spec.sparse, {k, out}));
    }
    if (spec.head == 0) return;
    head_weight = Tensor(spec.dtype, {k, spec.widths.back(), spec.head}, uniform);
    if (!spec.sparse) head_bias = Tensor(spec.dtype, {k, spec.head}, uniform);
  }

  Mlp checked(const std::vector<Tensor>& packed = {}) const {
    MlpArgs args;
    args.x = x.array(), args.reduce = spec.reduce;
    for (size_t l = 0; l < weight.size(); ++l) {
      args.weight.push_back(weight[l].array()), args.r.push_back(r[l].array());
      args.s.push_back(s[l].array()), args.bias.push_back(bias[l].array());
    }
    for (const Tensor& panels : packed) args.packed.push_back(panels.array());
    args.head_weight = head_weight.array(), args.head_bias = head_bias.array();
    return check_batch_ensemble_mlp(args);
  }

  Guarded run(ParallelFor parallel, const std::vector<Tensor>& packed = {}) const {
    const Mlp mlp = checked(packed);
    Guarded out(spec.dtype, Tensor::count(mlp.out_shape()));
    batch_ensemble_mlp(mlp, out.data(), parallel);
    EXPECT(out.intact(), spec.text());
    return out;
  }

  // --- the loops
  static double at(const Tensor& t, int64_t i, double absent) {
    return t.present() && t.data.size() > 0 ? t[i] : absent;
  }

  // What one member makes of one sample, before the reduction.
  std::vector<double> member(int64_t sample, int64_t j) const {
    std::vector<double> h;
    const int64_t row = spec.shared_x ? sample : sample * spec.k + j;
    for (int64_t i = 0; i < spec.widths[0]; ++i) h.push_back(x[row * spec.widths[0] + i]);
    for (size_t l = 0; l < weight.size(); ++l) {
      const int64_t in = spec.widths[l], out = spec.widths[l + 1];
      std::vector<double> next;
      for (int64_t o = 0; o < out; ++o) {
        double z = 0;
        for (int64_t i = 0; i < in; ++i) {
          z += h[size_t(i)] * at(r[l], j * in + i, 1) * weight[l][o * in + i];
        }
        const int64_t b = bias[l].shape.size() == 2 ? j * out + o : o;
        next.push_back(std::max(0.0, z * at(s[l], j * out + o, 1) + at(bias[l], b, 0)));
      }
      h = next;
    }
    if (spec.head == 0) return h;
    std::vector<double> y;
    for (int64_t o = 0; o < spec.head; ++o) {
      double sum = at(head_bias, j * spec.head + o, 0);
      for (size_t i = 0; i < h.size(); ++i) {
        sum += h[i] * head_weight[(j * int64_t(h.size()) + int64_t(i)) * spec.head + o];
      }
      y.push_back(sum);
    }
    return y;
  }

  std::vector<double> expected() const {
    const std::string reduce = spec.reduce;
    std::vector<double> all;
    for (int64_t sample = 0; sample < spec.batch; ++sample) {
      std::vector<double> mean(size_t(spec.head), 0.0);
      for (int64_t j = 0; j < spec.k; ++j) {
        std::vector<double> y = member(sample, j);
        if (reduce == "none") all.insert(all.end(), y.begin(), y.end());
        if (reduce == "softmax_mean") {
          double total = 0;
          for (double& v : y) total += v = std::exp(v);
          for (double& v : y) v /= total;
        }
        for (size_t o = 0; o < mean.size(); ++o) mean[o] += y[o] / double(spec.k);
      }
      if (reduce != "none") all.insert(all.end(), mean.begin(), mean.end());
    }
    return all;
  }

  const NetworkSpec spec;
  Tensor x, head_weight, head_bias;
  std::vector<Tensor> weight, r, s, bias;
};

// More than 96 members (several blocks a sample), wide after narrow, one layer.
std::vector<NetworkSpec> specs() {
  std::vector<NetworkSpec> all{
      {.batch = 3, .k = 4, .widths = {7, 33, 18, 70}, .head = 3},
      {.batch = 5, .k = 3, .widths = {5, 9}, .head = 0},
      {.batch = 1, .k = 100, .widths = {3, 17, 5}, .head = 2, .reduce = "mean"},
      {.batch = 90, .k = 32, .widths = {10, 40, 20}, .head = 5, .reduce = "softmax_mean"},
      {.batch = 600, .k = 3, .widths = {4, 12, 6}, .head = 0, .shared_x = false},
      {.batch = 20, .k = 130, .widths = {6, 8, 8}, .head = 70, .reduce = "mean", .sparse = true},
      {.batch = 0, .k = 2, .widths = {4, 5}, .head = 1, .reduce = "mean"},
  };
  std::vector<NetworkSpec> out;
  for (const NetworkSpec& spec : all) {
    for (const Dtype dtype :
         {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64}) {
      out.push_back(spec);
      out.back().dtype = dtype;
      out.back().sparse ^= dtype == Dtype::kFloat16;
    }
  }
  return out;
}

// Relative to the largest result: float32 sums of tens of terms, one rounding to the storage
// format, and with AMX one to bfloat16 (2^-9) per layer.
double tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32: return 2e-6;
    case Dtype::kFloat16: return 1e-3;
    case Dtype::kBFloat16: return 2e-2;
    default: return 1e-14;
  }
}

void values() {
  set_num_threads(2);
  for (const NetworkSpec& spec : specs()) {
    const NetworkProblem problem(spec);
    const Guarded got = problem.run(pool);
    const std::vector<double> want = problem.expected();
    EXPECT(got.size() == int64_t(want.size()), spec.text());
    double largest = 0;
    for (const double v : want) largest = std::max(largest, std::fabs(v));
    for (int64_t i = 0; i < got.size(); ++i) {
      EXPECT(std::fabs(got[i] - want[size_t(i)]) <= tolerance(spec.dtype) * largest, spec.text(),
             " [", i, "]: got ", got[i], ", want ", want[size_t(i)], ", largest ", largest);
    }
  }
}

void schedules_and_packed_weights() {
  for (const NetworkSpec& spec : specs()) {
    const NetworkProblem problem(spec);
    const Guarded want = problem.run(serial);
    for (int threads = 1; threads <= 4; ++threads) {
      set_num_threads(threads);
      EXPECT(problem.run(pool).same_bytes(want), spec.text(), ": ", threads, " threads");
    }
    std::vector<Tensor> packed;
    for (const Tensor& w : problem.weight) {
      const int64_t in = w.shape[1], out = w.shape[0];
      const int64_t bytes = ensemble::packed_weight_bytes(spec.dtype, in, out);
      packed.emplace_back();
      packed.back().shape = {bytes}, packed.back().data = Guarded(Dtype::kUInt8, bytes);
      ensemble::pack_weight(spec.dtype, in, out, w.data.data(), packed.back().data.data(), serial);
    }
    EXPECT(problem.run(pool, packed).same_bytes(want), spec.text(), ": packed");
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests(
      {{"values", values}, {"schedules and packed weights", schedules_and_packed_weights}});
}
