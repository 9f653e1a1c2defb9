// bfloat16 and float16 to float and back on every instruction set, against arithmetic on doubles
// (numbers.h): all 65536 values, all midpoints between neighbours, random and special floats.
#include <bit>
#include <limits>

#include "check.h"
#include "guarded.h"
#include "tables.h"

namespace thrifty::test {
namespace {

constexpr int kValues = 65536;

template <class Body>
void for_halves(const Body& body) {
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : {Dtype::kBFloat16, Dtype::kFloat16}) {
      body(tables.isa, dtype, tables.rows.storage[int(dtype)]);
    }
  }
}

std::vector<uint16_t> narrow(const ensemble::RowKernels& kernels, const std::vector<float>& from) {
  std::vector<uint16_t> to(from.size());
  kernels.to_storage(int64_t(from.size()), from.data(), to.data());
  return to;
}

bool is_nan(Dtype dtype, uint16_t bits) { return (bits & 0x7fff) > format_of(dtype).infinity(); }

void every_value_goes_there_and_back() {
  std::vector<uint16_t> all(kValues);
  for (int i = 0; i < kValues; ++i) all[size_t(i)] = uint16_t(i);
  for_halves([&](const char* isa, Dtype dtype, const ensemble::RowKernels& kernels) {
    std::vector<float> wide(kValues);
    kernels.to_accumulator(kValues, all.data(), wide.data());
    const std::vector<uint16_t> back = narrow(kernels, wide);
    for (size_t i = 0; i < kValues; ++i) {
      const float want = float(decode(format_of(dtype), uint16_t(i)));
      if (is_nan(dtype, uint16_t(i))) {
        EXPECT(std::isnan(wide[i]) && is_nan(dtype, back[i]), isa, " ", dtype_name(dtype), " ", i);
      } else {
        EXPECT(std::bit_cast<uint32_t>(wide[i]) == std::bit_cast<uint32_t>(want), isa, " ",
               dtype_name(dtype), " ", i, ": got ", wide[i], ", want ", want);
        EXPECT(back[i] == i, isa, " ", dtype_name(dtype), " ", i, ": got ", back[i]);
      }
    }
  });
}

// Rounding is monotone, so it is right everywhere when it is right beside each midpoint. The last
// midpoint lies between the largest finite value and what would be the next.
void midpoints() {
  for_halves([](const char* isa, Dtype dtype, const ensemble::RowKernels& kernels) {
    const Format format = format_of(dtype);
    std::vector<float> from;
    std::vector<uint16_t> want;
    for (uint16_t b = 0; b < format.infinity(); ++b) {
      const double low = decode(format, b);
      const double step =
          std::ldexp(1.0, std::max(b >> format.mantissa, 1) - format.bias - format.mantissa);
      const float middle = float(low + step / 2);
      for (const float sign : {1.0f, -1.0f}) {
        const uint16_t bit = sign < 0 ? 0x8000 : 0;
        from.push_back(sign * std::nextafter(middle, 0.0f)), want.push_back(bit | b);
        from.push_back(sign * middle), want.push_back(bit | uint16_t(b + (b & 1)));
        from.push_back(sign * std::nextafter(middle, INFINITY)), want.push_back(bit | (b + 1));
      }
    }
    const std::vector<uint16_t> got = narrow(kernels, from);
    for (size_t i = 0; i < from.size(); ++i) {
      EXPECT(got[i] == want[i], isa, " ", dtype_name(dtype), " of ", from[i], ": got ", got[i],
             ", want ", want[i]);
    }
  });
}

void random_and_special_floats() {
  Random random(1);
  std::vector<float> from;
  for (int i = 0; i < 200000; ++i) from.push_back(std::bit_cast<float>(uint32_t(random.bits())));
  for (int i = 0; i < 50000; ++i) from.push_back(float(random.uniform(-70000, 70000)));
  for (int i = 0; i < 50000; ++i) from.push_back(float(random.uniform(-1e-4, 1e-4)));
  using Limits = std::numeric_limits<float>;
  for (const float v : {0.0f, Limits::denorm_min(), Limits::min(), Limits::max(), INFINITY}) {
    from.push_back(v), from.push_back(-v);
  }
  for (const uint32_t bits : {0x7f800001u, 0x7f80ffffu, 0x7fbfffffu, 0x7fffffffu, 0x7fc00000u}) {
    from.push_back(std::bit_cast<float>(bits)),
        from.push_back(std::bit_cast<float>(0x80000000u | bits));
  }
  for_halves([&](const char* isa, Dtype dtype, const ensemble::RowKernels& kernels) {
    const std::vector<uint16_t> got = narrow(kernels, from);
    for (size_t i = 0; i < from.size(); ++i) {
      const uint16_t want = encode(format_of(dtype), double(from[i]));
      const bool same = std::isnan(from[i]) ? is_nan(dtype, got[i]) : got[i] == want;
      EXPECT(same, isa, " ", dtype_name(dtype), " of ", from[i], ": got ", got[i], ", want ", want);
    }
  });
}

// float32 and float64 storage is copied.
void wide_formats_are_copies() {
  Random random(2);
  for (const Tables& tables : all_tables()) {
    for (const Dtype dtype : {Dtype::kFloat32, Dtype::kFloat64}) {
      const auto& kernels = tables.rows.storage[int(dtype)];
      for (int64_t n = 0; n < 40; ++n) {
        const Guarded from(dtype, n, [&] { return random.uniform(-1, 1); });
        Guarded there(dtype, n), back(dtype, n);
        kernels.to_accumulator(n, from.data(), there.data());
        kernels.to_storage(n, there.data(), back.data());
        EXPECT(there.same_bytes(from) && back.same_bytes(from), tables.isa, " ", dtype_name(dtype),
               " n = ", n);
      }
    }
  }
}

}  // namespace
}  // namespace thrifty::test

int main() {
  using namespace thrifty::test;
  return run_tests({{"every value goes there and back", every_value_goes_there_and_back},
                    {"midpoints", midpoints},
                    {"random and special floats", random_and_special_floats},
                    {"wide formats are copies", wide_formats_are_copies}});
}
