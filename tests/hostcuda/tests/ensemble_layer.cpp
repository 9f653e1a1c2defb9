#include "ensemble_layer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace thrifty::ensemble::cuda::testing {
namespace {

int64_t product(const std::vector<int64_t>& shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t(1), std::multiplies<>());
}

template <class T>
void put(unsigned char* to, double value) {
  const T element = from_float<T>(value);
  std::memcpy(to, &element, sizeof(T));
}
template <class T>
double get(const unsigned char* from) {
  T element;
  std::memcpy(&element, from, sizeof(T));
  return as_double(element);
}

void encode(Dtype dtype, double value, unsigned char* to) {
  switch (dtype) {
    case Dtype::kBFloat16: return put<bf16>(to, value);
    case Dtype::kFloat16: return put<fp16>(to, value);
    case Dtype::kFloat32: return put<float>(to, value);
    default: return put<double>(to, value);
  }
}

Array describe(void* data, Dtype dtype, const std::vector<int64_t>& shape, int64_t row) {
  Array a;
  a.data = data, a.dtype = dtype, a.ndim = int(shape.size());
  int64_t stride = 1;
  for (int d = a.ndim - 1; d >= 0; --d) {
    a.shape[size_t(d)] = shape[size_t(d)], a.strides[size_t(d)] = stride;
    stride *= d == a.ndim - 1 ? row : shape[size_t(d)];
  }
  return a;
}

}  // namespace

double round_to(Dtype dtype, double value) {
  unsigned char bytes[8];
  encode(dtype, value, bytes);
  return decode(dtype, Bytes(bytes, bytes + dtype_size(dtype)))[0];
}

Values decode(Dtype dtype, const Bytes& bytes) {
  Values values;
  for (size_t i = 0; i < bytes.size(); i += size_t(dtype_size(dtype))) {
    const unsigned char* from = bytes.data() + i;
    values.push_back(dtype == Dtype::kBFloat16  ? get<bf16>(from)
                     : dtype == Dtype::kFloat16 ? get<fp16>(from)
                     : dtype == Dtype::kFloat32 ? get<float>(from)
                                                : get<double>(from));
  }
  return values;
}

Data::Data(Dtype dtype, std::vector<int64_t> shape, unsigned seed, int skew, int pad)
    : dtype(dtype), shape(std::move(shape)), row(this->shape.back() + pad) {
  const size_t size = size_t(dtype_size(dtype)), count = size_t(product(this->shape));
  for (const float value : normal_values<float>(count, seed)) {
    values.push_back(round_to(dtype, value));
  }
  const size_t width = size_t(this->shape.back()), rows = width > 0 ? count / width : 0;
  // The last row has no padding: an access beyond it is outside the allocation.
  const size_t elements = rows > 0 ? (rows - 1) * size_t(row) + width : 0;
  memory = std::make_unique<Buffer<unsigned char>>((elements + size_t(skew)) * size);
  begin = memory->data() + size_t(skew) * size;
  for (size_t i = 0; i < count; ++i) {
    unsigned char bytes[8];
    encode(dtype, values[i], bytes);
    copy_to_global(begin + (i / width * size_t(row) + i % width) * size, bytes, size);
  }
}

Array Data::array() { return describe(begin, dtype, shape, row); }
Array Data::values_array() { return describe(values.data(), Dtype::kFloat64, shape, shape.back()); }

std::unique_ptr<Data> optional_data(bool wanted, Dtype dtype, std::vector<int64_t> shape,
                                    unsigned seed, int skew) {
  return wanted ? std::make_unique<Data>(dtype, std::move(shape), seed, skew) : nullptr;
}

namespace {

std::vector<int64_t> x_shape(const Case& c) {
  if (c.group > 0) return {c.rows, c.in};
  if (c.shared_x) return {c.batch, c.in};
  return {c.batch, c.k, c.in};
}

std::vector<int64_t> weight_shape(const Case& c) {
  if (c.packed) return {c.k, c.in, c.out};
  return {c.out, c.in};
}

}  // namespace

TestLayer::TestLayer(const Case& c)
    : test(c),
      x(c.dtype, x_shape(c), 1, c.skew, c.pad),
      weight(c.dtype, weight_shape(c), 2, c.skew),
      seed(std::vector<int64_t>{0x1234567890abcdef, 77}),
      host_seed{0x1234567890abcdef, 77} {
  const Dtype vectors = c.wide ? Dtype::kFloat32 : c.dtype;
  r = optional_data(c.r && !c.packed, vectors, {c.k, c.in}, 3, c.skew);
  s = optional_data(c.s && !c.packed, vectors, {c.k, c.out}, 4, c.skew);
  const bool shared_bias = c.bias == 1 && !c.packed;
  bias = optional_data(c.bias > 0, vectors,
                       shared_bias ? std::vector{c.out} : std::vector{c.k, c.out}, 5, c.skew);
  r_next = optional_data(c.r_next && !c.packed, vectors, {c.k, c.out}, 6, c.skew);
}

Layer TestLayer::layer(bool expected) {
  const auto array = [&](Data& data) { return expected ? data.values_array() : data.array(); };
  const auto maybe = [&](std::unique_ptr<Data>& data) { return data ? array(*data) : Array{}; };
  LayerArgs args{.op = "test", .x = array(x), .weight = array(weight)};
  args.r = maybe(r), args.s = maybe(s), args.bias = maybe(bias), args.r_next = maybe(r_next);
  args.seed = describe(expected ? host_seed.data() : seed.data(), Dtype::kInt64, {2}, 2);
  args.activation = test.activation, args.dropout = test.dropout;
  args.k = test.packed ? 0 : test.k, args.group = test.group;
  args.on_device = !expected;
  return test.packed ? check_ensemble_linear(args) : check_batch_ensemble_linear(args);
}
Layer TestLayer::device_layer() { return layer(false); }
Layer TestLayer::expected_layer() { return layer(true); }

std::vector<int64_t> TestLayer::out_shape() const { return {test.all_rows(), test.out}; }

std::string Case::text() const {
  std::string text = std::string(dtype_name(dtype)) + " B" + std::to_string(batch) + " k" +
                     std::to_string(k) + " " + std::to_string(in) + "->" + std::to_string(out);
  if (group > 0) text += " group " + std::to_string(group) + " rows " + std::to_string(rows);
  if (packed) text += " packed";
  if (!shared_x) text += " 3-D x";
  for (const auto& [on, name] : {std::pair{r, "r"}, {s, "s"}, {r_next, "r_next"}, {wide, "wide"}}) {
    if (on) text += std::string(" ") + name;
  }
  text += " bias" + std::to_string(bias) + " " + activation;
  if (dropout > 0) text += " dropout " + std::to_string(dropout);
  if (skew > 0) text += " skew " + std::to_string(skew);
  if (pad > 0) text += " pad " + std::to_string(pad);
  return text;
}

double tolerance(Dtype dtype) {
  switch (dtype) {
    case Dtype::kBFloat16: return 8e-3;
    case Dtype::kFloat16: return 1e-3;
    case Dtype::kFloat32: return 2e-6;
    default: return 1e-13;
  }
}

void expect_near(const Values& actual, const Values& expected, double tolerance,
                 const std::string& what) {
  double largest = 1e-3;
  for (const double value : expected) largest = std::max(largest, std::fabs(value));
  expect_close(actual, expected, tolerance * largest, tolerance, what);
}

}  // namespace thrifty::ensemble::cuda::testing
