// Backward kernels of the ensemble layers against the CPU's in float64: all gradients from the same
// G and z, over dtypes, layouts, sizes around the tiles' edges, alignments and activations.
#include "ensemble/layer_operands.h"
#include "ensemble/linear_launch.h"
#include "ensemble_layer.h"

namespace thrifty::ensemble::cuda::testing {
namespace {

enum Needs { kX = 1, kWeight = 2, kR = 4, kS = 8, kBias = 16, kRNext = 32, kAll = 63 };
constexpr const char* kNames[] = {"dx", "dweight", "dr", "ds", "dbias", "dr_next"};

// Memory for the gradients that are asked for, in their arguments' types.
struct Outputs {
  Outputs(const TestLayer& layer, int needs, bool expected) {
    const Data* of[] = {&layer.x,      &layer.weight,    layer.r.get(),
                        layer.s.get(), layer.bias.get(), layer.r_next.get()};
    for (int i = 0; i < 6; ++i) {
      if (of[i] == nullptr || of[i]->values.empty() || (needs >> i & 1) == 0) continue;
      dtype[i] = expected ? Dtype::kFloat64 : of[i]->dtype;
      const size_t bytes = of[i]->values.size() * size_t(dtype_size(dtype[i]));
      memory[i] = std::make_unique<Buffer<unsigned char>>(bytes);
    }
  }
  LayerGrads grads() {
    const auto at = [&](int i) -> void* { return memory[i] ? memory[i]->data() : nullptr; };
    return {at(0), at(1), at(2), at(3), at(4), at(5)};
  }
  Values values(int i) const { return decode(dtype[i], memory[i]->bytes()); }

  std::unique_ptr<Buffer<unsigned char>> memory[6];
  Dtype dtype[6] = {};
};

Bytes check(const Case& c, int needs = kAll, int64_t blocks = kEnoughBlocks) {
  TestLayer layer(c);
  Data grad(c.dtype, layer.out_shape(), 7, c.skew), z(c.dtype, layer.out_shape(), 8, c.skew);
  const bool with_z = backward_needs_z(layer.expected_layer(), needs & kS, needs & kRNext);

  Outputs got(layer, needs, false), want(layer, needs, true);
  const Layer on_device = layer.device_layer();
  const LayerGrads grads = got.grads();
  Buffer<unsigned char> scratch{size_t(linear_bwd_scratch(on_device, grads, blocks))};
  const Status status = cuda::linear_bwd(on_device, grad.begin, with_z ? z.begin : nullptr, grads,
                                         scratch.data(), cudaStream_t(), blocks);
  expect_ok(status.error);
  ensemble::linear_bwd(layer.expected_layer(), grad.values.data(),
                       with_z ? z.values.data() : nullptr, want.grads(), serial);
  Bytes all;
  for (int i = 0; i < 6; ++i) {
    if (!got.memory[i]) continue;
    expect_near(got.values(i), want.values(i), tolerance(c.dtype), kNames[i]);
    const Bytes bytes = got.memory[i]->bytes();
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

// Under one schedule; says which case failed.
void check_once(const Case& c, int needs = kAll, int64_t blocks = kEnoughBlocks) {
  try {
    check(c, needs, blocks);
  } catch (const std::exception& error) {
    throw Failure(c.text() + ", needs " + std::to_string(needs) + ": " + error.what());
  }
}

constexpr Dtype kDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32, Dtype::kFloat64};

}  // namespace

TEST(bwd_sizes) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t size : {1, 3, 7, 17, 33, 65, 130}) {
      check_once({.dtype = dtype, .batch = 5, .k = 2, .in = size, .out = 19});
      check_once({.dtype = dtype, .batch = 5, .k = 2, .in = 9, .out = size, .r = false});
      check_once({.dtype = dtype, .batch = size, .k = 2, .in = 8, .out = 6, .shared_x = false});
    }
  }
}

TEST(bwd_layouts) {
  for (const Dtype dtype : kDtypes) {
    for (const bool shared : {true, false}) {
      check_once({.dtype = dtype, .shared_x = shared, .r_next = true, .bias = 1});
      check_once({.dtype = dtype, .shared_x = shared, .packed = true, .activation = "relu"});
      check_once({.dtype = dtype, .shared_x = shared, .r = false, .s = false, .bias = 0});
      check_once({.dtype = dtype, .shared_x = shared, .r = false, .s = false, .bias = 1});
      check_once({.dtype = dtype, .in = 16, .shared_x = shared, .pad = 3});
      check_once({.dtype = dtype, .shared_x = shared, .r = false, .pad = 2});
      check_once({.dtype = dtype, .k = 1, .shared_x = shared, .dropout = 0.5});
    }
    for (const int64_t group : {1, 2, 5, 100}) {
      check_once({.dtype = dtype, .k = 3, .group = group, .rows = 23, .dropout = 0.5});
      check_once({.dtype = dtype, .k = 3, .group = group, .rows = 23, .r = false});
    }
  }
}

TEST(bwd_activations) {
  for (const Dtype dtype : kDtypes) {
    for (const char* activation : {"none", "relu", "silu", "gelu", "gelu_tanh"}) {
      check_once({.dtype = dtype, .out = 70, .activation = activation});
      check_once({.dtype = dtype, .r_next = true, .activation = activation, .dropout = 0.25});
    }
  }
}

// Whatever subset is asked for, and nothing else is touched.
TEST(bwd_needs) {
  for (int needs = 0; needs <= kAll; ++needs) {
    const bool shared = needs % 2 == needs / 8 % 2;
    check_once({.dtype = Dtype::kFloat32, .shared_x = shared, .r_next = true, .activation = "silu"},
               needs);
  }
  for (const Dtype dtype : kDtypes) {
    for (const int needs : {int(kR), kR | kWeight, kR | kX, kX | kWeight, int(kBias)}) {
      check_once({.dtype = dtype, .in = 140, .activation = "relu"}, needs);
      check_once({.dtype = dtype, .r = false, .activation = "relu"}, needs);
      check_once({.dtype = dtype, .packed = true}, needs);
    }
  }
}

// Samples enough that their sums are cut, within a member and between members.
TEST(bwd_splits) {
  for (const Dtype dtype : kDtypes) {
    check_once({.dtype = dtype, .batch = 530, .k = 1, .in = 6, .out = 5});
    check_once({.dtype = dtype, .batch = 530, .k = 2, .in = 6, .out = 5, .r = false});
    check_once({.dtype = dtype, .batch = 530, .k = 2, .in = 6, .out = 5, .packed = true});
    check_once({.dtype = dtype, .k = 2, .in = 6, .out = 5, .group = 3, .rows = 1061}, kR | kWeight);
  }
}

// The other way: one block walks over several members.
TEST(bwd_members_in_one_block) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t blocks : {1, 2}) {
      check_once({.dtype = dtype, .dropout = 0.5}, kAll, blocks);
      check_once({.dtype = dtype, .k = 5, .in = 130}, kR | kWeight, blocks);
      check_once({.dtype = dtype, .k = 3, .group = 4, .rows = 17}, kR | kWeight, blocks);
      check_once({.dtype = dtype, .r = false, .pad = 1}, kAll, blocks);
      check_once({.dtype = dtype, .packed = true}, kAll, blocks);
    }
  }
}

TEST(bwd_alignment) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t in : {40, 36, 34, 35}) {
      check_once({.dtype = dtype, .in = in, .out = 10});
      check_once({.dtype = dtype, .in = 10, .out = in, .packed = true});
      check_once({.dtype = dtype, .in = in, .out = 12, .shared_x = false, .skew = 1});
    }
    check_once({.dtype = dtype, .in = 48, .out = 16, .shared_x = false, .pad = 4});
  }
}

TEST(bwd_float32_vectors) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
    check_once({.dtype = dtype, .r_next = true, .activation = "silu", .wide = true});
    check_once({.dtype = dtype, .bias = 1, .activation = "gelu", .wide = true}, kAll & ~kX);
  }
}

TEST(bwd_empty) {
  for (const Dtype dtype : kDtypes) {
    for (const bool packed : {false, true}) {
      check_once({.dtype = dtype, .batch = 0, .packed = packed, .r_next = true});
      check_once({.dtype = dtype, .out = 0, .packed = packed});
      check_once({.dtype = dtype, .in = 0, .packed = packed, .activation = "gelu"});
    }
    check_once({.dtype = dtype, .batch = 0, .bias = 1});
    check_once({.dtype = dtype, .out = 0}, kR | kWeight);
  }
}

// The 128 x 128 tiles of a dx without r, which launch_dx chooses for large problems only.
TEST(bwd_large_tiles) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32}) {
    const int64_t rows = 130, in = 132, out = 37;
    const Data dz(dtype, {rows, out}, 1), weight(dtype, {out, in}, 2);
    const int64_t bytes = rows * in * dtype_size(dtype);
    Buffer<unsigned char> dx{size_t(bytes)};
    GradArgs args;
    args.product = {plain_matrix(dtype, dz.begin, rows, out),
                    plain_matrix(dtype, weight.begin, out, in),
                    {int(out)},
                    {}};
    args.members = 1, args.depth_chunk = int(out);
    args.rows = {int(rows)}, args.columns = int(in), args.at = {in, 0, 0, 1};
    args.out = dx.data(), args.vector = true;
    expect_ok(dtype == Dtype::kBFloat16  ? launch_dx_bf16(args, false, false, nullptr)
              : dtype == Dtype::kFloat16 ? launch_dx_fp16(args, false, false, nullptr)
                                         : launch_dx_float(args, false, false, nullptr));
    Values want(size_t(rows * in));
    for (int64_t i = 0; i < rows * in; ++i) {
      for (int64_t o = 0; o < out; ++o) {
        want[size_t(i)] +=
            dz.values[size_t(i / in * out + o)] * weight.values[size_t(o * in + i % in)];
      }
    }
    expect_near(decode(dtype, dx.bytes()), want, tolerance(dtype), dtype_name(dtype));
  }
}

// Two depth tiles for each of many members: more than stages of shared memory, and sums taken over
// in between.
TEST(bwd_schedules) {
  for (const Dtype dtype : kDtypes) {
    Case c{.dtype = dtype, .batch = 5, .k = 3, .in = 10, .out = 40, .dropout = 0.5};
    for_each_schedule([&] { return check(c, kAll, 1); });
    c.packed = true, c.out = 70;
    for_few_schedules([&] { return check(c, kAll, 1); });
  }
}

}  // namespace thrifty::ensemble::cuda::testing
