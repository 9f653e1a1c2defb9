#include <cstring>

#include "moe/combine.h"
#include "moe/elements.h"
#include "moe/grouped_mm.h"
#include "moe/routed.h"
#include "moe/weight_grad.h"

namespace thrifty::moe {
namespace {

// The row numbers as int32, as TokenRows reads them.
std::vector<int32_t> indices(const Array& a) {
  std::vector<int32_t> all;
  if (!a) return all;
  for (int64_t i = 0; i < a.shape[0]; ++i) {
    all.push_back(a.dtype == Dtype::kInt64 ? int32_t(static_cast<const int64_t*>(a.data)[i])
                                           : static_cast<const int32_t*>(a.data)[i]);
  }
  return all;
}

// Rows of no group: zeros, or what is added.
void write_tail(const GroupedMm& product, void* out) {
  const int64_t n = product.n, size = dtype_size(product.out_dtype);
  std::vector<double> row(static_cast<size_t>(n));  // holds sums of either width
  for (int64_t r = product.offsets.back(); r < product.rows; ++r) {
    if (!product.added) {
      std::memset(static_cast<std::byte*>(out) + r * n * size, 0, size_t(n * size));
    } else {
      to_wide(n, product.added, r * product.added.strides[0], row.data());
      from_wide(n, row.data(), product.out_dtype, out, r * n);
    }
  }
}

void by_rows(const GroupedMm& product, void* out, ParallelFor parallel) {
  const Kit kit(product.a.dtype);
  const Array& b = product.b;
  const Weights w = weights_of(b, true);
  const auto index = indices(product.a_idx);
  const TokenRows a{
      static_cast<const std::byte*>(product.a.data), kit.dtype, product.k, product.a.strides[0],
      product.a_idx ? index.data() : nullptr,        1};
  Scratch scale;
  if (product.row_scale) {
    scale = Scratch((product.rows + 64) * kit.gemm.accumulator_size);
    to_wide(product.rows, product.row_scale, 0, scale.data());
  }
  const int64_t bytes = kit.column_bytes(product.k);
  const auto waves = cut_waves(product.offsets.data(), product.groups(), kit.gemm.nr, bytes);
  Scratch operands(widest(waves) * bytes);
  for (const Wave& wave : waves) {
    pack_wave(kit, wave, a, true, operands.data(), parallel);
    run_combine({.kit = kit,
                 .wave = wave,
                 .w = w,
                 .operands = operands.data(),
                 .with_few = true,
                 .rows = {},
                 .bias = product.bias,
                 .scale = scale.data(),
                 .sums = nullptr,
                 .out = static_cast<std::byte*>(out),
                 .out_dtype = product.out_dtype,
                 .added = static_cast<const std::byte*>(product.added.data),
                 .added_stride = product.added.strides[0]},
                parallel);
  }
  write_tail(product, out);
}

void by_depth(const GroupedMm& product, void* out, ParallelFor parallel) {
  const Kit kit(product.a.dtype);
  Array a = product.a;
  const Weights left{static_cast<const std::byte*>(a.data),
                     a.dtype,
                     product.rows,
                     product.k,
                     0,
                     a.strides[0],
                     a.strides[1]};
  const TokenRows right{static_cast<const std::byte*>(product.b.data), kit.dtype, product.n,
                        product.b.strides[0]};
  const int64_t bytes = round_up(product.n, kit.gemm.nr) * kit.gemm.operand_size;
  const auto waves = cut_waves(product.offsets.data(), product.groups(), kit.gemm.nr, bytes);
  FeaturePanels panels(kit, widest(waves), product.n);
  Scratch carry(round_up(product.rows, kit.unit) * WeightGrad::carry_ld(kit, product.n) *
                kit.gemm.accumulator_size);
  for (const Wave& wave : waves) {
    panels.pack(kit, wave, right, parallel);
    run_weight_grad({kit, wave, product.rows, product.n, nullptr, &left, panels, carry.data(),
                     static_cast<std::byte*>(out), false, product.out_dtype},
                    parallel);
  }
  zero_idle_experts(product.offsets.data(), product.groups(),
                    product.rows * product.n * dtype_size(product.out_dtype), out);
}

}  // namespace

void grouped_mm(const GroupedMm& product, void* out, ParallelFor parallel) {
  product.by_depth ? by_depth(product, out, parallel) : by_rows(product, out, parallel);
}

}  // namespace thrifty::moe
