// A layer with random arguments, for the host tests of the ensemble kernels: once as the kernels
// see it, in its storage format and in memory of exactly the right size, and once in float64 for
// the CPU's kernels, whose results are what is expected.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "ensemble/linear_cuda.h"
#include "hostcuda/harness.h"

namespace thrifty::ensemble::cuda::testing {

using namespace thrifty::cuda;
using namespace thrifty::cuda::testing;
using Values = std::vector<double>;

struct Case {
  Dtype dtype = Dtype::kBFloat16;
  int64_t batch = 5, k = 3, in = 17, out = 9;
  int64_t group = 0, rows = 0;  // group > 0: x is (rows, in)
  bool shared_x = true, packed = false;
  bool r = true, s = true, r_next = false;
  int bias = 2;  // its dimensions, 0: none
  const char* activation = "none";
  double dropout = 0;
  bool wide = false;  // r, s, bias, r_next in float32
  int skew = 0;       // every array begins so many elements off its alignment
  int pad = 0;        // elements between the rows of x
  bool save_z = true;

  int64_t all_rows() const { return group > 0 ? rows : batch * k; }
  std::string text() const;
};

// An array of the layer: its values, rounded to dtype, and their bytes in the kernel's memory.
struct Data {
  Data(Dtype dtype, std::vector<int64_t> shape, unsigned seed, int skew = 0, int pad = 0);

  Array array();         // for the kernels
  Array values_array();  // for the CPU, float64
  Values values;
  Dtype dtype;
  std::vector<int64_t> shape;
  int64_t row = 0;  // elements from one row to the next
  std::unique_ptr<Buffer<unsigned char>> memory;
  unsigned char* begin = nullptr;
};

double round_to(Dtype dtype, double value);
Values decode(Dtype dtype, const Bytes& bytes);
std::unique_ptr<Data> optional_data(bool wanted, Dtype dtype, std::vector<int64_t> shape,
                                    unsigned seed, int skew);

// All arguments of one case.
struct TestLayer {
  explicit TestLayer(const Case& test);

  Layer device_layer();    // float32, bf16, ...: what the kernels get
  Layer expected_layer();  // the same values in float64
  std::vector<int64_t> out_shape() const;

  Case test;
  Data x, weight;
  std::unique_ptr<Data> r, s, bias, r_next;
  Buffer<int64_t> seed;
  std::vector<int64_t> host_seed;

 private:
  Layer layer(bool expected);
};

// Largest difference allowed beside float64, relative to the largest expected value: some roundings
// of the storage format.
double tolerance(Dtype dtype);
void expect_near(const Values& actual, const Values& expected, double tolerance,
                 const std::string& what);

}  // namespace thrifty::ensemble::cuda::testing
