// Buckets and plans of attention against the CPU's, number for number. Sums are taken in another
// order than there, so a row whose two best products agree to some 1e-5 could differ; with these
// seeds none does.
#include <cmath>

#include "attention/bucket.h"
#include "attention/plan_cuda.h"
#include "hostcuda/harness.h"
#include "hostcuda/tests/device_array.h"

namespace thrifty::attention::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

void append(Bytes& all, const Bytes& more) { all.insert(all.end(), more.begin(), more.end()); }

void expect_same(const Buffer<int32_t>& got, const Buffer<int32_t>& want, const std::string& what) {
  const auto have = got.values(), expected = want.values();
  size_t wrong = 0, first = have.size();
  for (size_t i = have.size(); i-- > 0;) {
    if (have[i] != expected[i]) ++wrong, first = i;
  }
  expect(wrong == 0, what + ": " + std::to_string(wrong) + " of " + std::to_string(have.size()) +
                         " differ, the first at " + std::to_string(first));
}

// ---- buckets

struct BucketCase {
  Dtype dtype = Dtype::kFloat32;
  int64_t heads = 2, group = 1, n = 50, d = 16, count = 7;
  bool mean = false;
  bool nan = false;
};

Values with_nan(const BucketCase& c, unsigned seed) {
  const auto drawn = normal_values<float>(size_t(c.heads * c.n * c.d), seed);
  Values values(drawn.begin(), drawn.end());
  if (c.nan) {
    for (size_t i = 3; i < values.size(); i += size_t(c.d * 9 + 1)) values[i] = NAN;
  }
  return values;
}

Rows rows_at(const Array& a, int64_t slice, int64_t n, int64_t d) {
  return Rows{static_cast<std::byte*>(a.data), d}.from(slice * n, dtype_size(a.dtype));
}

std::vector<float> floats(const Array& a, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  to_float(a.dtype, count, static_cast<std::byte*>(a.data) + first * dtype_size(a.dtype),
           values.data());
  return values;
}

Bytes check_lsh(const BucketCase& c) {
  const DeviceArray x(c.dtype, {c.heads, c.n, c.d}, with_nan(c, 1)),
      planes(Dtype::kFloat32, {c.d, c.count}, 2), mean(c.dtype, {c.heads, c.d}, 3);
  Buffer<int32_t> got(size_t(c.heads * c.n)), want(size_t(c.heads * c.n));
  const auto* const normals = static_cast<const float*>(planes.array().data);
  expect_ok(lsh_bucket({c.dtype, x.array().data, normals, c.mean ? mean.array().data : nullptr,
                        c.heads, c.n, c.d, c.count},
                       got.data(), nullptr)
                .error);
  const Directions directions(normals, c.count, c.d, true);
  for (int64_t h = 0; h < c.heads; ++h) {
    directions.signs(c.dtype, rows_at(x.array(), h, c.n, c.d), c.n,
                     c.mean ? floats(mean.array(), h * c.d, c.d).data() : nullptr,
                     want.data() + h * c.n);
  }
  expect_same(got, want, "lsh_bucket, d " + std::to_string(c.d));
  return got.bytes();
}

Bytes check_centroids(const BucketCase& c) {
  const int64_t sets = c.heads / c.group;
  const DeviceArray x(c.dtype, {c.heads, c.n, c.d}, with_nan(c, 4)),
      centroids(c.dtype, {sets, c.count, c.d}, 5), mean(c.dtype, {c.heads, c.d}, 6);
  Buffer<int32_t> got(size_t(c.heads * c.n)), want(size_t(c.heads * c.n));
  const CentroidBucket call{c.dtype,
                            x.array().data,
                            centroids.array().data,
                            c.mean ? mean.array().data : nullptr,
                            c.heads,
                            c.n,
                            c.d,
                            c.count,
                            c.group};
  Buffer<unsigned char> scratch(size_t(centroid_bucket_scratch(call)));
  expect_ok(centroid_bucket(call, got.data(), scratch.data(), nullptr).error);
  for (int64_t h = 0; h < c.heads; ++h) {
    const auto points = floats(centroids.array(), h / c.group * c.count * c.d, c.count * c.d);
    Directions(points.data(), c.count, c.d)
        .nearest(c.dtype, rows_at(x.array(), h, c.n, c.d), c.n,
                 c.mean ? floats(mean.array(), h * c.d, c.d).data() : nullptr,
                 want.data() + h * c.n);
  }
  expect_same(
      got, want,
      "centroid_bucket, d " + std::to_string(c.d) + ", " + std::to_string(c.count) + " centroids");
  return got.bytes();
}

constexpr Dtype kDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16};

// ---- plans

struct PlanCase {
  Dtype dtype = Dtype::kFloat32;
  int64_t batch = 1, q_heads = 2, k_heads = 2, nq = 90, nk = 90, d = 8;
  bool causal = false, center = true;
  Mode mode = Mode::kMeans;
  int64_t num_buckets = 6, window = 16, residual = 12, keep = 5, leaf = 16, bits = 4;
  std::vector<int64_t> cuts = {};  // of packed sequences
  bool nan = false, device_seed = false;
  int64_t repeat = 0;  // rows that come again and again
};

struct PlanBuffers {
  Buffer<int32_t> order, offsets, q_window, samples;
  PlanBuffers(const PlanCase& c, const Layout& layout)
      : order(size_t(c.batch * c.k_heads * layout.k_total)),
        offsets(size_t(c.mode == Mode::kMeans ? c.batch * c.k_heads * int64_t(layout.nodes.size()) *
                                                    (c.num_buckets + 1)
                                              : 0)),
        q_window(size_t(c.batch * c.q_heads * layout.q_total)),
        samples(size_t(c.mode == Mode::kPaper
                           ? c.batch * c.k_heads * int64_t(layout.nodes.size()) * c.residual
                           : 0)) {}
  PlanOutputs outputs() { return {order.data(), offsets.data(), q_window.data(), samples.data()}; }
  Bytes bytes() const {
    Bytes all;
    for (const Buffer<int32_t>* part : {&order, &offsets, &q_window, &samples}) {
      append(all, part->bytes());
    }
    return all;
  }
};

Values heads_values(const PlanCase& c, int64_t heads, int64_t n, unsigned seed) {
  const auto drawn = normal_values<float>(size_t(c.batch * heads * n * c.d), seed);
  Values values(drawn.begin(), drawn.end());
  const size_t period = size_t(c.repeat * c.d);
  for (size_t i = period; period > 0 && i < values.size(); ++i) values[i] = values[i - period];
  for (size_t i = 0; i < values.size(); ++i) values[i] += 0.5 * double(i % size_t(c.d) % 3);
  if (c.nan) {
    for (size_t i = 7; i < values.size(); i += size_t(c.d * 11 + 1)) values[i] = NAN;
  }
  return values;
}

Heads heads_of(const Array& a) {
  return {static_cast<std::byte*>(a.data), a.stride(0), a.stride(1), a.stride(2)};
}

Bytes check_plan(const PlanCase& c) {
  // Rows of another length than d: strides are not those of dense tensors.
  const DeviceArray q(c.dtype, {c.batch, c.q_heads, c.nq, c.d}, heads_values(c, c.q_heads, c.nq, 1),
                      false, 0, 3),
      k(c.dtype, {c.batch, c.k_heads, c.nk, c.d}, heads_values(c, c.k_heads, c.nk, 2)),
      planes(Dtype::kFloat32, {c.d, c.bits}, 3);
  const Problem problem{c.dtype,
                        c.batch,
                        c.q_heads,
                        c.k_heads,
                        c.nq,
                        c.nk,
                        c.d,
                        c.d,
                        heads_of(q.array()),
                        heads_of(k.array()),
                        heads_of(k.array()),
                        1};
  const bool packed = !c.cuts.empty();
  const Layout layout =
      make_layout(packed ? c.cuts : std::vector<int64_t>{0, c.nq},
                  packed ? c.cuts : std::vector<int64_t>{0, c.nk}, c.causal, c.leaf);
  PlanArgs args{c.mode, c.causal, c.center, c.num_buckets, c.window, c.residual, c.keep,
                c.leaf, 11,       5};
  if (c.mode == Mode::kPaper) {
    args.planes = static_cast<const float*>(planes.array().data), args.bits = c.bits;
  }
  PlanBuffers got(c, layout), want(c, layout);
  Buffer<int64_t> words(std::vector<int64_t>{11, 5});
  PlanSeed seed{nullptr, args.seed, args.offset};
  if (c.device_seed) seed = {words.data(), 0, 0};
  Buffer<unsigned char> scratch(size_t(hyper_plan_scratch(problem, layout, args)));
  expect_ok(
      cuda::hyper_plan(problem, layout, args, seed, got.outputs(), scratch.data(), nullptr).error);
  attention::hyper_plan(problem, layout, args, want.outputs(), serial);
  const std::string what = dtype_name(c.dtype) + std::string(c.causal ? ", causal" : "") + ", nk " +
                           std::to_string(c.nk) + ", d " + std::to_string(c.d);
  expect_same(got.samples, want.samples, "samples, " + what);
  expect_same(got.offsets, want.offsets, "offsets, " + what);
  expect_same(got.order, want.order, "order, " + what);
  expect_same(got.q_window, want.q_window, "q_window, " + what);
  return got.bytes();
}

}  // namespace

TEST(lsh_bucket) {
  for_each_schedule([] { return check_lsh({.d = 20, .mean = true}); });
  for (const Dtype dtype : kDtypes) {
    for (const int64_t d : {1, 9, 24, 40}) {
      for (const int64_t bits : {1, 7, 8, 9, 16}) {
        check_lsh({.dtype = dtype, .n = 37, .d = d, .count = bits, .mean = d == 9});
      }
    }
    check_lsh({.dtype = dtype, .heads = 1, .n = 200, .d = 300});  // more columns than shared memory
    check_lsh({.dtype = dtype, .nan = true});
  }
  check_lsh({.n = 0});
  check_lsh({.n = 1});
}

TEST(centroid_bucket) {
  for (const Dtype dtype : kDtypes) {
    for_few_schedules([&] {
      return check_centroids(
          {.dtype = dtype, .heads = 2, .group = 2, .n = 130, .d = 40, .count = 140, .mean = true});
    });
    for (const int64_t d : {1, 9, 24, 33}) {
      check_centroids({.dtype = dtype, .heads = 4, .group = 2, .n = 37, .d = d, .mean = d == 9});
    }
    check_centroids({.dtype = dtype, .count = 1});
    check_centroids({.dtype = dtype, .mean = true, .nan = true});
    check_centroids({.dtype = dtype, .n = 1});
  }
  check_centroids({.n = 0});
}

TEST(plan_paper) {
  for_each_schedule([] { return check_plan({.causal = true, .mode = Mode::kPaper}); });
  for (const Dtype dtype : kDtypes) {
    check_plan({.dtype = dtype, .mode = Mode::kPaper, .bits = 7});
    check_plan({.dtype = dtype, .nq = 37, .nk = 101, .causal = true, .mode = Mode::kPaper});
    check_plan({.dtype = dtype, .nk = 41, .mode = Mode::kPaper, .nan = true});
  }
  check_plan({.batch = 2, .q_heads = 4, .causal = true, .mode = Mode::kPaper, .leaf = 20});
  check_plan({.nq = 5, .nk = 83, .mode = Mode::kPaper, .window = 7});  // blocks without queries
  check_plan({.nq = 111,
              .nk = 111,
              .causal = true,
              .mode = Mode::kPaper,
              .cuts = {0, 40, 40, 43, 44, 111}});
  check_plan({.mode = Mode::kPaper, .residual = 0, .device_seed = true});
  check_plan({.mode = Mode::kPaper, .bits = 11, .device_seed = true});
}

TEST(plan_means_schedules) {
  for_few_schedules([] { return check_plan({.nq = 70, .nk = 70, .causal = true}); });
  for_few_schedules([] { return check_plan({.dtype = Dtype::kBFloat16}); });
}

TEST(plan_means) {
  for (const Dtype dtype : kDtypes) {
    check_plan({.dtype = dtype});
    check_plan({.dtype = dtype, .nq = 37, .nk = 101, .d = 13, .causal = true});
    check_plan({.dtype = dtype, .nk = 83, .d = 24, .nan = true});
    check_plan({.dtype = dtype, .nq = 40, .nk = 300, .d = 40, .num_buckets = 32, .keep = 64});
  }
  check_plan({.batch = 2, .q_heads = 4, .nq = 70, .nk = 70, .causal = true, .leaf = 20});
  check_plan({.nq = 111, .nk = 111, .causal = true, .cuts = {0, 40, 40, 43, 44, 111}});
  check_plan({.nq = 111, .nk = 111, .keep = 0, .cuts = {0, 40, 40, 43, 44, 111}});
  check_plan({.center = false, .device_seed = true});
  check_plan({.num_buckets = 1});
  check_plan({.keep = 90});
  check_plan({.d = 1, .center = false});  // centroids that are the same, and then without members
  check_plan({.center = false, .num_buckets = 1, .keep = 20, .repeat = 7});  // equal scores
  check_plan({.nq = 1, .nk = 1, .d = 1});
  check_plan({.nq = 1, .nk = 70, .causal = true});  // nodes whose probe has no query
  check_plan({.batch = 0});
  check_plan({.nq = 0});
}

// Long rows: several chunks of a mean, several walkers of a sort.
TEST(plan_long) {
  check_plan({.q_heads = 1, .k_heads = 1, .nq = 9, .nk = 2300, .d = 4});
  check_plan({.q_heads = 1, .k_heads = 1, .nq = 1200, .nk = 1100, .d = 4, .mode = Mode::kPaper});
}

// More nodes than one launch brings to the device.
TEST(plan_many_nodes) {
  check_plan({.q_heads = 1,
              .k_heads = 1,
              .nq = 400,
              .nk = 400,
              .d = 4,
              .causal = true,
              .num_buckets = 2,
              .window = 4,
              .keep = 1,
              .leaf = 8});
}

}  // namespace thrifty::attention::cuda::testing
