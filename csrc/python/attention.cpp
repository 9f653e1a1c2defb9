// The attention family on NumPy arrays: forward only, the same core functions as
// torch.ops.thrifty.
#include "attention/bucket.h"
#include "attention/check.h"
#include "core/bucket_sort.h"
#include "python/numpy_edge.h"

namespace thrifty::python {
namespace {

using namespace attention;

std::byte* bytes(py::array& array) { return static_cast<std::byte*>(array.mutable_data()); }

std::vector<py::ssize_t> leading(const py::array& x, py::ssize_t dims) {
  return {x.shape(), x.shape() + dims};
}

py::array_t<int32_t> bucket(const py::array& x_, const py::array& by_, const OptionalArray& mean_,
                            void (*check)(const Array&, const Array&, const Array&),
                            void (*run)(const Array&, const Array&, const Array&, int32_t*,
                                        ParallelFor)) {
  const py::array x = dense(x_), by = dense(by_);
  const OptionalArray mean = dense(mean_);
  const Array a = view(x), b = view(by), m = view(mean);
  check(a, b, m);
  py::array_t<int32_t> ids(leading(x, x.ndim() - 1));
  int32_t* data = ids.mutable_data();
  const py::gil_scoped_release nogil;
  run(a, b, m, data, pool);
  return ids;
}

py::array_t<int32_t> lsh_bucket(const py::array& x, const py::array& planes,
                                const OptionalArray& mean) {
  return bucket(x, planes, mean, check_lsh_bucket, attention::lsh_bucket);
}

py::array_t<int32_t> centroid_bucket(const py::array& x, const py::array& centroids,
                                     const OptionalArray& mean) {
  return bucket(x, centroids, mean, check_centroid_bucket, attention::centroid_bucket);
}

py::tuple bucket_sort(const py::array& ids_, int64_t buckets) {
  constexpr const char* op = "bucket_sort";
  constexpr int64_t kMost = (int64_t(1) << 31) - 1;
  const py::array ids = dense(ids_);
  const Array a = view(ids);
  const bool known =
      a.dtype == Dtype::kInt32 || a.dtype == Dtype::kInt64 || a.dtype == Dtype::kUInt8;
  THRIFTY_CHECK(known, op, ": ids: expected int32, int64 or uint8, got ", dtype_name(a.dtype));
  THRIFTY_CHECK(a.ndim >= 1 && a.size(-1) <= kMost, op,
                ": ids: expected shape (..., n) with n < 2^31, got ", shape_text(a));
  THRIFTY_CHECK(buckets >= 1 && buckets < kMost, op,
                ": buckets: expected a positive number below 2^31 - 1, got ", buckets);
  int64_t rows = 1;
  for (int d = 0; d + 1 < a.ndim; ++d) rows *= a.shape[size_t(d)];
  std::vector<py::ssize_t> shape = leading(ids, ids.ndim());
  py::array_t<int32_t> order(shape);
  shape.back() = py::ssize_t(buckets + 1);
  py::array_t<int32_t> offsets(shape);
  int32_t *o = order.mutable_data(), *begins = offsets.mutable_data();
  {
    const py::gil_scoped_release nogil;
    thrifty::bucket_sort(a, rows, a.size(-1), buckets, o, begins, nullptr, pool);
  }
  return py::make_tuple(order, offsets);
}

// out and lse of a checked call, which `prepare` completes without the GIL.
template <class Prepare>
py::tuple forward(const py::array& q, Hyper& hyper, const Prepare& prepare) {
  const Problem& p = hyper.problem;
  py::array out = empty(q, {p.batch, p.q_heads, p.nq, p.dv});
  const bool wide = p.dtype == Dtype::kFloat64;
  py::array lse(wide ? py::dtype::of<double>() : py::dtype::of<float>(), leading(q, 3));
  std::byte *o = bytes(out), *l = bytes(lse);
  {
    const py::gil_scoped_release nogil;
    prepare();
    hyper_fwd(hyper, o, l, pool);
  }
  return py::make_tuple(out, lse);
}

py::tuple hyper_core(const py::array& q_, const py::array& k_, const py::array& v_,
                     const py::array& q_order_, const py::array& q_offsets_,
                     const py::array& k_order_, const py::array& windows_,
                     const OptionalArray& list_k_, const OptionalArray& list_v_,
                     const OptionalArray& list_logw_, const OptionalArray& list_range_,
                     const OptionalArray& list_var_, double scale) {
  const py::array q = dense(q_), k = dense(k_), v = dense(v_), q_order = dense(q_order_),
                  q_offsets = dense(q_offsets_), k_order = dense(k_order_),
                  windows = dense(windows_);
  const OptionalArray list_k = dense(list_k_), list_v = dense(list_v_),
                      list_logw = dense(list_logw_), list_range = dense(list_range_),
                      list_var = dense(list_var_);
  std::vector<int32_t> q_window;
  Hyper hyper = check_core(
      {view(q), view(k), view(v), view(q_order), view(q_offsets), view(k_order), view(windows),
       view(list_k), view(list_v), view(list_logw), view(list_range), view(list_var), scale},
      q_window);
  return forward(q, hyper, [] {});
}

// The plan and what it says, in one call: without a gradient nobody reads the plan again.
py::tuple hyper_attention(const py::array& q_, const py::array& k_, const py::array& v_,
                          const OptionalArray& cuts_, const std::string& mode, bool causal,
                          bool center, int64_t num_buckets, int64_t window, int64_t residual,
                          int64_t keep, int64_t leaf, int64_t planes, const py::array& seed_,
                          double scale) {
  constexpr const char* op = "hyper_attention";
  const py::array q = dense(q_), k = dense(k_), v = dense(v_), seed = dense(seed_);
  const OptionalArray cuts = dense(cuts_);
  Hyper hyper{};
  const Problem& p = hyper.problem = check_qkv(op, view(q), view(k), view(v), scale);
  Setup setup =
      check_setup(op, p, {mode, causal, center, num_buckets, window, residual, keep, leaf},
                  view(cuts), view(cuts));
  PlanArgs& args = setup.args;
  THRIFTY_CHECK(planes >= 1 && planes <= 16, op, ": planes: expected 1 to 16, got ", planes);
  const SeedPair pair = check_seed(op, view(seed));
  args.seed = pair.seed, args.offset = pair.offset;
  const auto nodes = int64_t(setup.layout.nodes.size()), key_heads = p.batch * p.k_heads;
  const bool means = args.mode == Mode::kMeans;
  std::vector<float> normals;
  std::vector<int32_t> order, offsets, q_window, samples;
  return forward(q, hyper, [&] {
    order.resize(size_t(key_heads * setup.layout.k_total));
    q_window.resize(size_t(p.heads() * setup.layout.q_total));
    offsets.resize(size_t(means ? key_heads * nodes * (num_buckets + 1) : 0));
    samples.resize(size_t(means ? 0 : key_heads * nodes * residual));
    if (!means) {
      normals.resize(size_t(p.d * planes));
      lsh_planes(args.seed, args.offset, p.d, planes, normals.data());
      args.planes = normals.data(), args.bits = planes;
    }
    hyper_plan(p, setup.layout, args,
               {order.data(), offsets.data(), q_window.data(), samples.data()}, pool);
    hyper.plan = {setup.layout, args.mode,    num_buckets,    window,          residual,
                  keep,         order.data(), offsets.data(), q_window.data(), samples.data()};
  });
}

}  // namespace

// Without defaults: _numpy_attention.py has them, and the documentation.
void bind_attention(py::module_& m) {
  m.def("lsh_bucket", &lsh_bucket);
  m.def("centroid_bucket", &centroid_bucket);
  m.def("bucket_sort", &bucket_sort);
  m.def("hyper_core", &hyper_core);
  m.def("hyper_attention", &hyper_attention);
}

}  // namespace thrifty::python
