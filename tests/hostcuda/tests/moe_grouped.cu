// grouped_mm on CUDA against the CPU's in float64: layouts, tiles and their edges, empty groups,
// tails, gathered rows, bias, scale, what is added, alignments; and offsets and indices that lie.
#include "core/parallel.h"
#include "device_array.h"
#include "hopper.h"
#include "moe/grouped_launch.h"
#include "moe/grouped_mm_cuda.h"

namespace thrifty::moe::cuda::testing {
namespace {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;

struct Case {
  Dtype dtype = Dtype::kBFloat16;
  std::vector<int64_t> ends = {3, 3, 9, 11};
  int64_t rows = 13, k = 24, n = 40;
  bool depth_lines = true;  // b [E, N, K] seen as [E, K, N]
  bool gathered = false, bias = false, scale = false, added = false, wide_out = false;
  int skew = 0, pad = 0;
};

// Of scales beside 16-bit rows.
Dtype wide_or(Dtype dtype) { return is_half(dtype) ? Dtype::kFloat32 : dtype; }

std::string text(const Case& c) {
  return std::string(dtype_name(c.dtype)) + " " + std::to_string(c.rows) + " x " +
         std::to_string(c.k) + " x " + std::to_string(c.n) + (c.depth_lines ? " nt" : " nn") +
         (c.gathered ? " gathered" : "") + " skew " + std::to_string(c.skew) + " pad " +
         std::to_string(c.pad);
}

DeviceArray ends_of(const Case& c, Dtype dtype) {
  return DeviceArray(dtype, {int64_t(c.ends.size())}, Values(c.ends.begin(), c.ends.end()));
}

struct Rows {
  explicit Rows(const Case& c)
      : offs(ends_of(c, Dtype::kInt32)),
        a(c.dtype, {c.gathered ? 5 : c.rows, c.k}, 1, false, c.skew, c.pad),
        b(c.dtype, {int64_t(c.ends.size()), c.k, c.n}, 2, c.depth_lines, c.skew) {
    if (c.gathered) {
      Values index;
      for (int64_t r = 0; r < c.rows; ++r) index.push_back(double(r * 3 % 5));
      a_idx = DeviceArray(Dtype::kInt64, {c.rows}, index);
    }
    if (c.bias) bias = DeviceArray(c.dtype, {int64_t(c.ends.size()), c.n}, 3);
    if (c.scale) scale = DeviceArray(wide_or(c.dtype), {c.rows}, 4);
    if (c.added) added = DeviceArray(c.dtype, {c.rows, c.n}, 5, false, c.skew);
  }
  GroupedMm product(const Case& c, bool wide) const {
    const auto get = [&](const DeviceArray& x) { return wide ? x.wide() : x.array(); };
    return check_grouped_mm({.a = get(a),
                             .b = get(b),
                             .offs = offs.array(),
                             .a_idx = a_idx.array(),
                             .bias = get(bias),
                             .row_scale = get(scale),
                             .added = get(added),
                             .float32_out = c.wide_out && !wide,
                             .on_device = !wide});
  }
  DeviceArray offs, a, b, a_idx, bias, scale, added;
};

Values expected(const GroupedMm& product, int64_t size) {
  Values out(size_t(size), NAN);
  moe::grouped_mm(product, out.data(), serial);
  return out;
}

Bytes compare(const Case& c, const GroupedMm& product, const GroupedMm& wide, int64_t size) {
  const Dtype dtype = product.out_dtype;
  Buffer<unsigned char> out(size_t((size + c.skew) * dtype_size(dtype)));
  unsigned char* const begin = out.data() + c.skew * dtype_size(dtype);
  check_grouped(product);
  expect_ok(cuda::grouped_mm(product, begin, nullptr).error);
  const Bytes all = out.bytes();
  const Bytes got(all.begin() + c.skew * dtype_size(dtype), all.end());
  expect_near(decode(dtype, got), expected(wide, size), rounding(c.dtype), text(c));
  return got;
}

Bytes check(const Case& c) {
  const Rows rows(c);
  return compare(c, rows.product(c, false), rows.product(c, true), c.rows * c.n);
}

// 2d x 2d: a [M, S] by columns, b [S, N].
Bytes check_depth(const Case& c, int64_t m) {
  const DeviceArray offs = ends_of(c, Dtype::kInt64);
  const DeviceArray a(c.dtype, {m, c.rows}, 1, true, c.skew, c.pad);
  const DeviceArray b(c.dtype, {c.rows, c.n}, 2, false, c.skew, c.pad);
  const auto product = [&](bool wide) {
    return check_grouped_mm({.a = wide ? a.wide() : a.array(),
                             .b = wide ? b.wide() : b.array(),
                             .offs = offs.array(),
                             .float32_out = c.wide_out && !wide,
                             .on_device = !wide});
  };
  return compare(c, product(false), product(true), int64_t(c.ends.size()) * m * c.n);
}

constexpr Dtype kDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32, Dtype::kFloat64};

}  // namespace

TEST(grouped_layouts) {
  for (const Dtype dtype : kDtypes) {
    for (const bool depth_lines : {true, false}) {
      check({.dtype = dtype, .depth_lines = depth_lines});
      check({.dtype = dtype,
             .depth_lines = depth_lines,
             .gathered = true,
             .bias = true,
             .scale = true,
             .added = true});
      check({.dtype = dtype,
             .depth_lines = depth_lines,
             .added = true,
             .wide_out = dtype != Dtype::kFloat64});
      for (const int skew : {1, 2}) {
        check({.dtype = dtype, .k = 24, .n = 136, .depth_lines = depth_lines, .skew = skew});
      }
      check({.dtype = dtype, .depth_lines = depth_lines, .pad = 4});
      for (const int64_t size : {1, 7, 33, 130}) {
        check({.dtype = dtype, .k = size, .n = 19, .depth_lines = depth_lines});
        check({.dtype = dtype, .k = 20, .n = size, .depth_lines = depth_lines});
      }
    }
  }
}

TEST(grouped_edges) {
  check({.ends = {0, 0, 0}});                 // nothing but a tail
  check({.ends = {13}});                      // one group
  check({.ends = {0}, .rows = 0});            // no rows
  check({.ends = {16, 32, 33}, .rows = 33});  // whole tiles, and one row
  check({.ends = {15, 31, 48}, .rows = 50});
  std::vector<int64_t> many(70, 0);  // more groups than a warp has lanes
  for (size_t g = 0; g < many.size(); ++g) many[g] = int64_t(g) / 3;
  check({.ends = many, .rows = 25});
}

// The larger tiles, which the average rows of a group choose.
TEST(grouped_large_tiles) {
  check({.ends = {30, 95}, .rows = 96, .k = 40, .n = 130});
  check({.ends = {30, 95}, .rows = 96, .k = 40, .n = 130, .depth_lines = false});
  check({.ends = {140, 150}, .rows = 150, .k = 72, .n = 132});
  check({.ends = {10, 150}, .rows = 150, .k = 40, .n = 20, .depth_lines = false, .bias = true});
}

TEST(grouped_depth) {
  for (const Dtype dtype : kDtypes) {
    check_depth({.dtype = dtype}, 24);
    check_depth({.dtype = dtype, .n = 135, .wide_out = dtype != Dtype::kFloat64}, 129);
    check_depth({.dtype = dtype, .n = 9, .skew = 1}, 5);
    check_depth({.dtype = dtype, .n = 16, .pad = 8}, 16);
    check_depth({.dtype = dtype, .ends = {40, 40, 77}, .rows = 77}, 8);
    check_depth({.dtype = dtype, .ends = {0, 0}, .rows = 0}, 8);
  }
}

TEST(grouped_schedules) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
    for_few_schedules([&] {
      return check({.dtype = dtype, .k = 70, .gathered = true, .bias = true, .scale = true});
    });
  }
  for_each_schedule([&] { return check({.ends = {3, 3, 20}, .rows = 21, .k = 72}); });
  for_few_schedules([&] { return check({.k = 200, .depth_lines = false}); });
  for_few_schedules([&] { return check_depth({.ends = {5, 5, 60}, .rows = 61}, 24); });
}

// Few, some and many rows a group: 16, 64 and 128 tokens a tile.
constexpr int64_t kFull = 64;  // depths of a stage
const Case kHopper[] = {{.k = 72, .n = 150},
                        {.ends = {30, 95}, .rows = 96, .k = 136, .n = 130},
                        {.ends = {140, 150, 150}, .rows = 153, .k = 72, .n = 268},
                        {.ends = {140, 150}, .rows = 150, .k = 72, .n = 264, .depth_lines = false}};

Case with_all(Case c) {
  c.gathered = c.bias = c.scale = c.added = true;
  return c;
}

TEST(grouped_hopper) {
  const Hopper hopper;
  for (Case c : kHopper) {
    check(c);
    c.dtype = Dtype::kFloat16, c.wide_out = true;
    check(with_all(c));
  }
  for (const int64_t k : {int64_t(8), kFull, 12 * kFull + 8}) check({.k = k, .n = 40});
  check({.ends = {130}, .rows = 130, .k = 6 * kFull, .n = 8});
  check({.ends = {0, 0, 0}, .k = 8});
  check({.ends = {16, 32, 33}, .rows = 33, .k = 8});
  std::vector<int64_t> many(70, 0);
  for (size_t g = 0; g < many.size(); ++g) many[g] = int64_t(g) / 3;
  check({.ends = many, .rows = 25, .k = 16, .n = 300});
}

TEST(grouped_hopper_schedules) {
  const Hopper hopper;
  for (const Case& c : kHopper) for_few_schedules([&] { return check(with_all(c)); });
}

#if defined(THRIFTY_HOST_CUDA)
TEST(grouped_hopper_is_chosen) {
  const Hopper hopper;
  const auto chosen = [](const Case& c) { return runs_on_hopper([&] { check(c); }); };
  for (const Case& c : kHopper) expect(chosen(c), text(c) + ": not Hopper's kernel");
  for (const Case& c : {Case{.k = 20}, Case{.skew = 4}, Case{.pad = 4}, Case{.depth_lines = false},
                        Case{.dtype = Dtype::kFloat32}}) {
    expect(!chosen(c), text(c) + ": Hopper's kernel");
    check(c);
  }
}
#endif

// Offsets that fall, leave [0, S] or are not there yet, and rows that a does not have: numbers may
// be wrong, accesses may not. The race checker would tell of rows that two groups claim.
#if defined(THRIFTY_HOSTCUDA_ASAN)
TEST(grouped_lies) {
  for (const std::vector<int64_t>& ends :
       {std::vector<int64_t>{9, 2, 13}, {-5, 400, 7}, {1 << 30, -(1 << 30), 2}}) {
    const Case c{.ends = ends, .gathered = true};
    Rows rows(c);
    rows.a_idx = DeviceArray(Dtype::kInt64, {c.rows}, Values(size_t(c.rows), 1e12));
    Buffer<bf16> out(size_t(c.rows * c.n));
    expect_ok(cuda::grouped_mm(rows.product(c, false), out.data(), nullptr).error);
    const Hopper hopper;
    expect_ok(cuda::grouped_mm(rows.product(c, false), out.data(), nullptr).error);
  }
}
#endif

}  // namespace thrifty::moe::cuda::testing
