// Layers give the same bits however their work is spread: in one thread, in a pool of 1 to 4, index
// by index in reverse order; and with weights packed beforehand.
#include "check.h"
#include "layer_run.h"

namespace thrifty::test {
namespace {

// A ParallelFor may cut where it likes: single indices, the last one first.
void reversed(int64_t begin, int64_t end, int64_t, RangeFn fn, void* context) {
  for (int64_t i = end; i-- > begin;) fn(i, i + 1, context);
}

// Few and many blocks (column chunks, more than 32 tasks), dx summed over members, dr through the
// member's own weight gradient, a weight per member.
std::vector<LayerSpec> specs() {
  std::vector<LayerSpec> all{
      {.batch = 2, .k = 3, .in = 40, .out = 333},
      {.batch = 150, .k = 5, .in = 33, .out = 70, .shared_x = true},
      {.batch = 1000, .k = 4, .in = 17, .out = 20},
      {.batch = 1501, .k = 3, .in = 20, .out = 24, .group = 7},
      {.batch = 70, .k = 3, .in = 30, .out = 65, .packed = true, .shared_x = true},
      {.batch = 210, .k = 2, .in = 30, .out = 65, .packed = true},
  };
  for (LayerSpec& spec : all) {
    spec.activation = "gelu", spec.dropout = 0.1, spec.real_values = true;
  }
  return all;
}

constexpr Dtype kDtypes[] = {Dtype::kFloat32, Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat64};

// body(problem, parallel) must give the same as body(problem, serial), which comes first.
template <class Run, class Same>
void for_all_schedules(const Run& run, const Same& same) {
  const auto expected = run(serial);
  for (int threads = 1; threads <= 4; ++threads) {
    set_num_threads(threads);
    same(expected, run(pool), concat(threads, " threads"));
  }
  same(expected, run(reversed), "reversed");
}

void forward() {
  for (LayerSpec spec : specs()) {
    for (const Dtype dtype : kDtypes) {
      spec.dtype = dtype;
      const LayerProblem p(spec, 1);
      for_all_schedules([&](ParallelFor parallel) { return run_forward(p, true, parallel); },
                        [&](const Forward& want, const Forward& got, const std::string& how) {
                          EXPECT(got.out.same_bytes(want.out) && got.z.same_bytes(want.z),
                                 spec.text(), ": ", how);
                        });
    }
  }
}

void backward() {
  for (LayerSpec spec : specs()) {
    for (const Dtype dtype : kDtypes) {
      spec.dtype = dtype;
      const LayerProblem p(spec, 2);
      const Forward f = run_forward(p, true, serial);
      for (const int needs : {63, 62}) {  // without dx too: other blocks, other sums
        for_all_schedules(
            [&](ParallelFor parallel) { return run_backward(p, &f.z, needs, parallel); },
            [&](const Gradients& want, const Gradients& got, const std::string& how) {
              for (size_t i = 0; i < 6; ++i) {
                EXPECT(got.all()[i]->same_bytes(*want.all()[i]), spec.text(), ": ",
                       Gradients::kNames[i], ", ", how, ", needs ", needs);
              }
            });
      }
    }
  }
}

void packed_weights() {
  for (LayerSpec spec : specs()) {
    if (spec.packed) continue;
    for (const Dtype dtype : kDtypes) {
      spec.dtype = dtype;
      const LayerProblem p(spec, 3);
      const int64_t bytes = ensemble::packed_weight_bytes(dtype, spec.in, spec.out);
      for_all_schedules(
          [&](ParallelFor parallel) {
            Guarded panels(Dtype::kUInt8, bytes);
            ensemble::pack_weight(dtype, spec.in, spec.out, p.weight.data.data(), panels.data(),
                                  parallel);
            EXPECT(panels.intact(), spec.text());
            Layer layer = p.layer();
            layer.packed_weight = panels.data();
            layer.weight = nullptr;
            Guarded out(dtype, spec.rows() * spec.out);
            linear_fwd(layer, out.data(), nullptr, parallel);
            EXPECT(out.same_bytes(run_forward(p, false, serial).out), spec.text());
            return panels;
          },
          [&](const Guarded& want, const Guarded& got, const std::string& how) {
            EXPECT(got.same_bytes(want), spec.text(), ": ", how);
          });
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests(
      {{"forward", forward}, {"backward", backward}, {"packed weights", packed_weights}});
}
