#include "ensemble/blocks.h"

#include <cstring>

namespace thrifty::ensemble {

const GemmKernels& gemm_kernels(Dtype dtype) { return gemm_table().storage[int(dtype)]; }
const RowKernels& row_kernels(Dtype dtype) { return ensemble_rows().storage[int(dtype)]; }

int64_t column_chunk(int64_t blocks, int64_t columns) {
  const int64_t chunks = ceil_div(kEnoughTasks, std::max<int64_t>(1, blocks));
  return std::max<int64_t>(64, round_up(ceil_div(columns, chunks), 64));
}

Vectors::Vectors(const Layer& layer, const Array& array, int64_t width, double absent) {
  const Dtype wide = layer.dtype == Dtype::kFloat64 ? Dtype::kFloat64 : Dtype::kFloat32;
  const int64_t size = dtype_size(wide);
  const int64_t rows = array && array.ndim == 2 ? array.shape[0] : 1;
  stride_ = rows > 1 ? width * size : 0;
  if (array && array.dtype == wide) {
    rows_ = static_cast<const std::byte*>(array.data);
    return;
  }
  data_ = Scratch(std::max<int64_t>(1, rows * width) * size);
  rows_ = data_.data();
  if (array) {
    row_kernels(array.dtype).to_accumulator(rows * width, array.data, data_.data());
  } else if (wide == Dtype::kFloat64) {
    std::fill_n(data_.as<double>(), width, absent);
  } else {
    std::fill_n(data_.as<float>(), width, float(absent));
  }
}

LayerVectors::LayerVectors(const Layer& layer)
    : r(layer, layer.r, layer.in, 1),
      s(layer, layer.s, layer.out, 1),
      bias(layer, layer.bias, layer.out, 0),
      r_next(layer, layer.r_next, layer.out, 1),
      ones(layer, Array{}, layer.out, 1),
      element_size(layer.dtype == Dtype::kFloat64 ? 8 : 4) {}

LayerRow LayerVectors::row(const Layer& layer, int64_t member, int64_t first,
                           const void* mask) const {
  const int64_t at = first * element_size;
  return {layer.activation, s.row(member) + at, bias.row(member) + at, r_next.row(member) + at,
          mask != nullptr ? mask : ones.row(0)};
}

Buffer Buffer::operands(const GemmKernels& gemm, int64_t rows, int64_t columns) {
  // One more cache line than a power of two, so that rows do not fall on the same cache sets.
  const int64_t line = 64 / gemm.operand_size;
  const int64_t width = round_up(round_up(columns, gemm.mr), line) + line;
  const int64_t bytes = round_up(rows, gemm.mr) * width * gemm.operand_size;
  Buffer buffer{Scratch(bytes), width, width * gemm.operand_size};
  std::memset(buffer.data.data(), 0, size_t(bytes));
  return buffer;
}

Buffer Buffer::sums(const GemmKernels& gemm, int64_t rows, int64_t columns) {
  const int64_t width = round_up(columns, gemm.nr) + 64 / gemm.accumulator_size;
  const int64_t row_bytes = width * gemm.accumulator_size;
  return {Scratch(round_up(rows, gemm.mr) * row_bytes), width, row_bytes};
}

Scratch pack_weights(const Layer& layer, bool transposed, ParallelFor parallel) {
  const GemmKernels& gemm = gemm_kernels(layer.dtype);
  const int64_t k = transposed ? layer.out : layer.in, n = transposed ? layer.in : layer.out;
  // weight is (out, in), or (in, out) for each member: its rows run along n in two of the four
  // cases
  const bool rows_along_n = transposed != layer.packed;
  const int64_t width = layer.packed ? layer.out : layer.in;
  const int64_t members = layer.packed ? layer.map.k : 1, panels = ceil_div(n, gemm.nr);
  const int64_t size = dtype_size(layer.dtype);
  Scratch packed(std::max<int64_t>(1, members * gemm.panels_bytes(k, n)));
  for_each(parallel, members * panels, [&](int64_t i) {
    const int64_t member = i / panels, first = i % panels * gemm.nr;
    const auto* weight = static_cast<const std::byte*>(layer.weight) + member * k * n * size;
    const MatrixView view = rows_along_n ? MatrixView{weight + first * size, width, 1}
                                         : MatrixView{weight + first * width * size, 1, width};
    gemm.pack(k, std::min(gemm.nr, n - first), view, packed.data() + i * gemm.panel_bytes(k));
  });
  return packed;
}

int64_t packed_weight_bytes(Dtype dtype, int64_t in, int64_t out) {
  return round_up(in, 32) * round_up(out, 32) * (dtype == Dtype::kFloat64 ? 8 : 4);
}

void pack_weight(Dtype dtype, int64_t in, int64_t out, const void* weight, void* panels,
                 ParallelFor parallel) {
  Layer layer;
  layer.dtype = dtype, layer.in = in, layer.out = out, layer.weight = weight;
  const Scratch packed = pack_weights(layer, false, parallel);
  std::memset(panels, 0, size_t(packed_weight_bytes(dtype, in, out)));
  std::memcpy(panels, packed.data(), size_t(gemm_kernels(dtype).panels_bytes(in, out)));
}

}  // namespace thrifty::ensemble
