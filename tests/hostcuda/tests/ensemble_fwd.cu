// Forward kernels of the ensemble layers against the CPU's in float64, over dtypes, layouts, sizes
// around the tiles' edges, alignments and activations; dropout masks bit for bit.
#include <sys/mman.h>

#include "ensemble/layer_operands.h"
#include "ensemble/linear_launch.h"
#include "ensemble_layer.h"

namespace thrifty::ensemble::cuda::testing {
namespace {

struct Forward {
  Bytes out, z;
};

Forward run(TestLayer& layer) {
  const Case& c = layer.test;
  const size_t bytes = size_t(c.all_rows() * c.out * dtype_size(c.dtype));
  const size_t skew = size_t(c.skew * dtype_size(c.dtype));
  Buffer<unsigned char> out(bytes + skew), z(c.save_z ? bytes + skew : 0);
  const Status status = cuda::linear_fwd(layer.device_layer(), out.data() + skew,
                                         c.save_z ? z.data() + skew : nullptr, cudaStream_t());
  expect_ok(status.error);
  const auto tail = [&](const Buffer<unsigned char>& buffer) {
    const Bytes all = buffer.bytes();
    return Bytes(all.begin() + std::min<int64_t>(int64_t(skew), int64_t(all.size())), all.end());
  };
  return {tail(out), tail(z)};
}

Forward expected(TestLayer& layer) {
  const Case& c = layer.test;
  const size_t bytes = size_t(c.all_rows() * c.out) * 8;
  Forward result{Bytes(bytes), Bytes(bytes)};
  ensemble::linear_fwd(layer.expected_layer(), result.out.data(), result.z.data(), serial);
  return result;
}

Bytes check(const Case& c) {
  TestLayer layer(c);
  const Forward got = run(layer), want = expected(layer);
  const double near = tolerance(c.dtype);
  expect_near(decode(c.dtype, got.out), decode(Dtype::kFloat64, want.out), near, "out");
  if (c.save_z) {
    expect_near(decode(c.dtype, got.z), decode(Dtype::kFloat64, want.z), near, "z");
  }
  Bytes all = got.out;
  all.insert(all.end(), got.z.begin(), got.z.end());
  return all;
}

// Under one schedule; says which case failed.
void check_once(const Case& c) {
  try {
    check(c);
  } catch (const std::exception& error) {
    throw Failure(c.text() + ": " + error.what());
  }
}

constexpr Dtype kDtypes[] = {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32, Dtype::kFloat64};

// Bit for bit the mask that the CPU draws, whichever way the rows are cut into tiles.
void check_mask(const Case& c) {
  TestLayer layer(c);
  const Values out = decode(c.dtype, run(layer).out);
  const uint64_t seed = uint64_t(layer.host_seed[0]), offset = uint64_t(layer.host_seed[1]);
  const uint32_t threshold = Dropout(c.dropout, 0, 0).threshold;
  for (int64_t row = 0; row < c.all_rows(); ++row) {
    for (int64_t column = 0; column < c.out; ++column) {
      const bool keeps = dropout_word(seed, offset, uint32_t(row), column) >= threshold;
      expect((out[size_t(row * c.out + column)] != 0) == keeps,
             c.text() + ": row " + std::to_string(row) + ", column " + std::to_string(column));
    }
  }
}

}  // namespace

TEST(fwd_sizes) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t size : {1, 3, 7, 17, 33, 65, 130}) {
      check_once({.dtype = dtype, .batch = 5, .k = 2, .in = size, .out = 19});
      check_once({.dtype = dtype, .batch = 5, .k = 2, .in = 24, .out = size});
      check_once({.dtype = dtype, .batch = size, .k = 2, .in = 8, .out = 6});
    }
  }
}

// The 128 x 128 tiles, which linear_fwd chooses for large problems only.
TEST(fwd_large_tiles) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16, Dtype::kFloat32}) {
    for (const int kind : {0, 1, 2}) {
      const Case c{.dtype = dtype,
                   .batch = 130,
                   .k = 2,
                   .in = 37,
                   .out = 132,
                   .packed = kind == 1,
                   .r = kind == 2,
                   .dropout = 0.3};
      TestLayer layer(c);
      const size_t bytes = size_t(c.all_rows() * c.out * dtype_size(dtype));
      Buffer<unsigned char> out(bytes), z(bytes);
      const Layer on_device = simplified(layer.device_layer());
      const FwdArgs args = fwd_args(on_device, out.data(), z.data());
      const auto launch = dtype == Dtype::kBFloat16  ? launch_fwd_bf16
                          : dtype == Dtype::kFloat16 ? launch_fwd_fp16
                                                     : launch_fwd_float;
      expect_ok(launch(args, c.packed, false, nullptr));
      expect_near(decode(dtype, out.bytes()), decode(Dtype::kFloat64, expected(layer).out),
                  tolerance(dtype), c.text());
    }
  }
}

TEST(fwd_layouts) {
  for (const Dtype dtype : kDtypes) {
    for (const bool shared : {true, false}) {
      check_once({.dtype = dtype, .shared_x = shared, .r_next = true, .bias = 1});
      check_once({.dtype = dtype, .shared_x = shared, .packed = true, .activation = "relu"});
      check_once({.dtype = dtype, .shared_x = shared, .r = false, .s = false, .bias = 0});
      check_once({.dtype = dtype, .in = 16, .shared_x = shared, .pad = 3});
      check_once({.dtype = dtype, .shared_x = shared, .save_z = false});
    }
    for (const int64_t group : {1, 2, 5, 100}) {
      check_once({.dtype = dtype, .k = 3, .group = group, .rows = 23, .dropout = 0.5});
    }
  }
}

TEST(fwd_activations) {
  for (const Dtype dtype : kDtypes) {
    for (const char* activation : {"none", "relu", "silu", "gelu", "gelu_tanh"}) {
      check_once({.dtype = dtype, .out = 70, .activation = activation});
      check_once({.dtype = dtype, .r_next = true, .activation = activation, .dropout = 0.25});
    }
  }
}

// All access widths of the copies: 8, 4, 2 elements and 1.
TEST(fwd_alignment) {
  for (const Dtype dtype : kDtypes) {
    for (const int64_t in : {40, 36, 34, 35}) {
      check_once({.dtype = dtype, .in = in, .out = 10});
      check_once({.dtype = dtype, .in = 11, .out = in, .packed = true});
      check_once({.dtype = dtype, .in = in, .out = 10, .shared_x = false, .skew = 1});
    }
    check_once({.dtype = dtype, .in = 48, .out = 16, .shared_x = false, .pad = 4});
  }
}

TEST(fwd_float32_vectors) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
    check_once({.dtype = dtype, .r_next = true, .activation = "silu", .wide = true});
  }
}

TEST(fwd_empty) {
  for (const Dtype dtype : kDtypes) {
    check_once({.dtype = dtype, .batch = 0});
    check_once({.dtype = dtype, .out = 0});
    check_once({.dtype = dtype, .in = 0, .activation = "gelu"});
    check_once({.dtype = dtype, .in = 0, .packed = true});
  }
}

TEST(fwd_dropout_mask_is_philox) {
  for (const Dtype dtype : kDtypes) {
    check_mask({.dtype = dtype, .batch = 4, .k = 3, .in = 8, .out = 150, .dropout = 0.4});
    check_mask({.dtype = dtype, .packed = true, .dropout = 0.1});
    check_mask({.dtype = dtype, .group = 2, .rows = 11, .dropout = 0.9});
    check_mask(
        {.dtype = dtype, .shared_x = false, .r = false, .s = false, .bias = 1, .dropout = 0.5});
  }
}

// Rows of x more than 2^31 elements apart: pages of a mapping that nobody else touches.
TEST(fwd_offsets_are_64_bit) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat32}) {
    TestLayer layer({.dtype = dtype, .batch = 3, .in = 8});
    const Case& c = layer.test;
    const size_t size = size_t(dtype_size(dtype)), stride = (size_t(1) << 30) + 8;
    const size_t bytes = (2 * stride + 8) * size;
    void* const far = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    expect(far != MAP_FAILED, "no address space");
    for (size_t row = 0; row < 3; ++row) {
      std::memcpy(static_cast<unsigned char*>(far) + row * stride * size,
                  layer.x.begin + row * 8 * size, 8 * size);
    }
    Layer on_device = layer.device_layer();
    on_device.x = far, on_device.x_outer = int64_t(stride);
    Buffer<unsigned char> out(size_t(c.all_rows() * c.out) * size);
    expect_ok(cuda::linear_fwd(on_device, out.data(), nullptr, cudaStream_t()).error);
    munmap(far, bytes);
    expect_near(decode(dtype, out.bytes()), decode(Dtype::kFloat64, expected(layer).out),
                tolerance(dtype), "out");
  }
}

// out is made of the z that is saved, whose rounding backward will see: hardly an element differs
// from that, where half of them would if y came from the unrounded sum.
TEST(fwd_out_follows_saved_z) {
  for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
    TestLayer layer({.dtype = dtype, .batch = 40, .in = 64, .out = 20, .bias = 1});
    const Case& c = layer.test;
    const Forward got = run(layer);
    const Values out = decode(dtype, got.out), z = decode(dtype, got.z);
    int different = 0;
    for (int64_t i = 0; i < c.all_rows() * c.out; ++i) {
      const double s = layer.s->values[size_t(i % (c.k * c.out))];
      const double y = z[size_t(i)] * s + layer.bias->values[size_t(i % c.out)];
      different += out[size_t(i)] != round_to(dtype, y);
    }
    expect(different <= c.all_rows() * c.out / 100, std::to_string(different) + " elements differ");
  }
}

TEST(fwd_relu_passes_nan) {
  Case c{.dtype = Dtype::kFloat32, .activation = "relu"};
  TestLayer layer(c);
  const float nan = NAN;
  copy_to_global(layer.x.begin, &nan, sizeof(nan));
  const Values out = decode(c.dtype, run(layer).out);
  for (int64_t i = 0; i < c.k * c.out; ++i)
    expect(std::isnan(out[size_t(i)]), "NaN became a number");
}

// More depth tiles than stages of shared memory.
TEST(fwd_schedules) {
  for (const Dtype dtype : kDtypes) {
    for_each_schedule([&] { return check({.dtype = dtype, .k = 1, .in = 170, .dropout = 0.5}); });
    for_few_schedules([&] { return check({.dtype = dtype, .k = 1, .in = 170, .packed = true}); });
  }
}

}  // namespace thrifty::ensemble::cuda::testing
