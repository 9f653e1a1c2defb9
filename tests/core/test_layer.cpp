// linear_fwd and linear_bwd against loops in double, bit for bit, over small and odd shapes: ragged
// groups, more members than rows of a block, nothing at all. Every argument and result lies in
// memory of its exact size.
#include "check.h"
#include "layer_run.h"

namespace thrifty::test {
namespace {

struct Shape {
  int64_t batch, k, in, out, group = 0;
};

// 96 rows make a block, 64 samples a member's own weight gradient (linear_bwd_cpu.cpp).
constexpr Shape kShapes[] = {
    {0, 3, 5, 7},      {1, 1, 1, 1},     {3, 2, 0, 5},       {3, 2, 5, 0},      {3, 2, 5, 7},
    {7, 3, 33, 17},    {2, 5, 65, 31},   {33, 4, 16, 64},    {5, 32, 7, 65},    {1, 100, 3, 5},
    {2, 97, 3, 5},     {100, 2, 9, 70},  {65, 1, 4, 130},    {5, 3, 6, 7, 2},   {1, 4, 3, 5, 8},
    {50, 3, 17, 9, 4}, {13, 5, 8, 8, 1}, {200, 2, 7, 33, 7}, {250, 3, 5, 6, 80}};

// The member of each row by definition, against where RowMap says that its samples are.
void row_map() {
  for (int64_t rows = 0; rows < 60; ++rows) {
    for (int64_t k = 1; k < 6; ++k) {
      for (int64_t group = 1; group < 8; ++group) {
        const ensemble::RowMap map{rows, k, group};
        std::vector<int64_t> samples(static_cast<size_t>(k), 0);
        for (int64_t row = 0; row < rows; ++row) {
          const int64_t j = row / group % k;
          const int64_t at = map.row(j, samples[size_t(j)]++);
          EXPECT(at == row, "rows ", rows, " k ", k, " group ", group, ": row ", row, ", got ", at);
        }
        for (int64_t j = 0; j < k; ++j) {
          EXPECT(map.samples(j) == samples[size_t(j)] && map.samples(j) <= map.max_samples(),
                 "rows ", rows, " k ", k, " group ", group, " member ", j, ": ", map.samples(j));
        }
      }
    }
  }
}

// All choices that a layer has, drawn at random.
LayerSpec draw(const Shape& shape, Dtype dtype, Random& random) {
  const auto flip = [&] { return bool(random.bits() >> 40 & 1); };
  LayerSpec spec{.dtype = dtype, .batch = shape.batch, .k = shape.k, .in = shape.in};
  spec.out = shape.out, spec.group = shape.group;
  spec.packed = shape.group == 0 && random.bits() % 4 == 0;
  spec.shared_x = shape.group == 0 && flip();
  spec.r = flip(), spec.s = flip(), spec.r_next = flip();
  spec.bias = spec.packed ? (flip() ? 2 : 0) : int(random.bits() % 3);
  spec.activation = flip() ? "relu" : "none";
  spec.dropout = flip() ? 0.5 : 0;
  spec.float_vectors = is_half(dtype) && flip();
  return spec;
}

// Bit for bit, or within 1e-12 of the largest where libm has a part.
void expect_equal(const LayerProblem& p, const char* what, const Guarded& got, const Guarded& want,
                  bool exact = true) {
  double largest = 1;
  for (int64_t i = 0; i < want.size(); ++i) largest = std::max(largest, std::fabs(want[i]));
  for (int64_t i = 0; i < want.size(); ++i) {
    const bool right = exact ? got[i] == rounded(got.dtype(), want[i])
                             : std::fabs(got[i] - want[i]) <= 1e-12 * largest;
    EXPECT(right, p.spec.text(), ": ", what, "[", i, "]: got ", got[i], ", want ", want[i]);
  }
  EXPECT(got.intact() && got.size() == want.size(), p.spec.text(), ": ", what);
}

void expect_forward(const LayerProblem& p, const Forward& f, bool exact) {
  const int64_t rows = p.spec.rows(), out = p.spec.out;
  Guarded z(Dtype::kFloat64, rows * out), want(Dtype::kFloat64, rows * out);
  const bool saved = f.z.size() == f.out.size();
  for (int64_t i = 0; i < rows * out; ++i) {
    z.set(i, p.z(i / out, i % out));
    want.set(i, p.out(i / out, i % out, saved ? rounded(p.spec.dtype, z[i]) : z[i]));
  }
  if (saved) expect_equal(p, "z", f.z, z, exact);
  expect_equal(p, "out", f.out, want, exact);
}

void expect_backward(const LayerProblem& p, const Guarded& z, int needs, bool exact) {
  const Layer layer = p.layer();
  const bool needs_z = backward_needs_z(layer, needs & 8, needs & 32);
  const Guarded* saved = needs_z ? &z : nullptr;
  const Gradients got = run_backward(p, saved, needs, pool), want = loop_backward(p, saved);
  for (size_t i = 0; i < 6; ++i) {
    const std::string name = concat(Gradients::kNames[i], " of needs ", needs);
    if (needs >> i & 1) {
      expect_equal(p, name.c_str(), *got.all()[i], *want.all()[i], exact);
    } else {
      const Guarded& unasked = *got.all()[i];
      EXPECT(unasked.same_bytes(Guarded(unasked.dtype(), unasked.size())), p.spec.text(), name);
    }
  }
}

void exact_values() {
  Random random(1);
  set_num_threads(2);
  for (const Shape& shape : kShapes) {
    for (const Dtype dtype :
         {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64}) {
      for (int repeat = 0; repeat < 8; ++repeat) {
        const LayerProblem p(draw(shape, dtype, random), random.bits());
        expect_forward(p, run_forward(p, false, pool), true);
        const Forward f = run_forward(p, true, pool);
        expect_forward(p, f, true);
        expect_backward(p, f.z, repeat == 0 ? 63 : int(random.bits() % 64), true);
      }
    }
  }
}

// A smooth activation, in float64.
void smooth_activation() {
  Random random(2);
  for (const Shape& shape : kShapes) {
    LayerSpec spec = draw(shape, Dtype::kFloat64, random);
    spec.activation = "silu", spec.real_values = true;
    const LayerProblem p(spec, random.bits());
    const Forward f = run_forward(p, true, pool);
    expect_forward(p, f, false);
    expect_backward(p, f.z, 63, false);
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"row map", row_map},
                    {"exact values", exact_values},
                    {"smooth activation", smooth_activation}});
}
