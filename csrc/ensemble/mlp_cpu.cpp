// The whole network on the CPU. Large batches: a thread takes a block of rows through all layers
// while it stays in the second-level cache, so memory sees x, the weights and the outputs. Small
// batches (a few blocks): layer after layer, each cut by columns.
#include <cmath>
#include <cstring>

#include "ensemble/blocks.h"
#include "ensemble/mlp.h"

namespace thrifty::ensemble {
namespace {

// A layer with its next layer's r folded in.
struct Step {
  Layer layer;
  LayerVectors vectors;
  Scratch packed;
  const std::byte* panels;

  Step(const Layer& with_next, ParallelFor parallel)
      : layer(with_next),
        vectors(layer),
        panels(static_cast<const std::byte*>(layer.packed_weight)) {
    if (panels == nullptr) {
      packed = pack_weights(layer, false, parallel);
      panels = packed.data();
    }
  }
};

std::vector<Step> make_steps(const Mlp& mlp, ParallelFor parallel) {
  std::vector<Step> steps;
  for (size_t i = 0; i < mlp.layers.size(); ++i) {
    Layer layer = mlp.layers[i];
    if (i > 0) layer.r = Array{};
    if (i + 1 < mlp.layers.size()) layer.r_next = mlp.layers[i + 1].r;
    steps.emplace_back(layer, parallel);
  }
  return steps;
}

// [in, out] to [out, in]
template <class T>
void transpose(int64_t in, int64_t out, const T* from, T* to) {
  for (int64_t o = 0; o < out; ++o) {
    for (int64_t i = 0; i < in; ++i) to[o * in + i] = from[i * out + o];
  }
}

// The head's columns as rows of accumulators: [k, out, in].
Scratch transpose_head(const Mlp& mlp) {
  if (!mlp.has_head()) return {};
  const Layer& last = mlp.layers.back();
  const int64_t k = last.map.k, in = last.out, out = mlp.head_out;
  const int64_t size = gemm_kernels(last.dtype).accumulator_size;
  const int64_t bytes = std::max<int64_t>(1, k * in * out * size);
  Scratch wide(bytes);
  row_kernels(last.dtype).to_accumulator(k * in * out, mlp.head_weight.data, wide.data());
  if (out == 1) return wide;
  Scratch rows(bytes);
  for (int64_t j = 0; j < k; ++j) {
    const int64_t at = j * in * out;
    if (size == 8) {
      transpose(in, out, wide.as<double>() + at, rows.as<double>() + at);
    } else {
      transpose(in, out, wide.as<float>() + at, rows.as<float>() + at);
    }
  }
  return rows;
}

struct Network {
  const Mlp& mlp;
  const std::vector<Step> steps;
  const Blocks blocks;
  const Scratch head;
  const Vectors head_bias;
  std::byte* out;
  const Dtype dtype = mlp.layers[0].dtype;
  const GemmKernels& gemm = gemm_kernels(dtype);
  const RowKernels& kernels = row_kernels(dtype);

  Network(const Mlp& mlp, void* out, ParallelFor parallel)
      : mlp(mlp),
        steps(make_steps(mlp, parallel)),
        blocks(mlp.layers[0].map, kBlockRows / mlp.layers[0].map.k, false, false),
        head(transpose_head(mlp)),
        head_bias(mlp.layers[0], mlp.head_bias, mlp.head_out, 0),
        out(static_cast<std::byte*>(out)) {}

  // Rows of scratch that a block takes.
  const int64_t block_rows = round_up(blocks.max_rows(), gemm.mr);

  int64_t max_width() const {
    int64_t width = steps[0].layer.in;
    for (const Step& step : steps) width = std::max(width, step.layer.out);
    return width;
  }

  // Reads the rows of x that belong to the block.
  int64_t read(int64_t block, std::byte* operands, int64_t row_bytes) const {
    const Step& first = steps[0];
    return blocks.rows(block, [&](int64_t i, int64_t row, int64_t member, int64_t) {
      kernels.scale_input(first.layer.in, first.layer.x_row(row),
                          first.layer.r ? first.vectors.r.row(member) : nullptr,
                          operands + i * row_bytes);
      clear_tail(operands + i * row_bytes, first.layer.in);
    });
  }

  // Columns [first, first + width) of one layer: from the operands of the block to those of the
  // next layer.
  void run(const Step& step, int64_t block, int64_t rows, int64_t first, int64_t width,
           const std::byte* from, std::byte* to, const Buffer& shape, Buffer& sums) const {
    const Layer& layer = step.layer;
    const std::byte* panels = step.panels + first / gemm.nr * gemm.panel_bytes(layer.in);
    gemm.gemm(rows, width, layer.in, from, shape.width, panels, sums.row(0), sums.width, false);
    blocks.rows(block, [&](int64_t i, int64_t, int64_t member, int64_t) {
      std::byte* row = to + i * shape.row_bytes;
      kernels.finish_operand(width, sums.row(i), step.vectors.row(layer, member, first, nullptr),
                             row + first * gemm.operand_size);
      if (first + width == layer.out) clear_tail(row, layer.out);
    });
  }

  // Products read whole steps of `depth` operands.
  void clear_tail(std::byte* row, int64_t columns) const {
    const int64_t end = round_up(columns, gemm.depth);
    std::memset(row + columns * gemm.operand_size, 0, size_t((end - columns) * gemm.operand_size));
  }

  void write(int64_t block, const std::byte* operands, int64_t row_bytes) const;
  void write_head(int64_t block, const std::byte* operands, int64_t row_bytes,
                  std::vector<double>& sample_sums, std::vector<double>& logits) const;
  void store(int64_t row, const std::vector<double>& values, int64_t first) const;
};

// Without a head the last layer's rows are the result: through storage of the network's dtype.
void Network::write(int64_t block, const std::byte* operands, int64_t row_bytes) const {
  const int64_t width = mlp.width(), size = dtype_size(dtype);
  blocks.rows(block, [&](int64_t i, int64_t row, int64_t, int64_t) {
    const std::byte* from = operands + i * row_bytes;
    std::byte* to = out + row * width * size;
    if (gemm.operand_size == size) {
      std::memcpy(to, from, size_t(width * size));  // operands are of the storage format
    } else {
      kernels.to_storage(width, from, to);  // operands are accumulators
    }
  });
}

void softmax(std::vector<double>& logits) {
  double top = -INFINITY, total = 0;
  for (const double v : logits) top = v > top || std::isnan(v) ? v : top;
  for (double& v : logits) total += v = std::exp(v - top);
  for (double& v : logits) v /= total;
}

// One row's result, rounded once to the storage format.
void Network::store(int64_t row, const std::vector<double>& values, int64_t first) const {
  const int64_t width = mlp.head_out;
  double wide[64];
  float narrow[64];
  for (int64_t o = 0; o < width; o += 64) {
    const int64_t n = std::min<int64_t>(64, width - o);
    for (int64_t i = 0; i < n; ++i) narrow[i] = float(wide[i] = values[size_t(first + o + i)]);
    const void* from = gemm.accumulator_size == 8 ? static_cast<void*>(wide) : narrow;
    kernels.to_storage(n, from, out + (row * width + o) * dtype_size(dtype));
  }
}

// Logits of every row; with a reduction, means over the members of a sample, which all lie in
// blocks of this tile.
void Network::write_head(int64_t block, const std::byte* operands, int64_t row_bytes,
                         std::vector<double>& sample_sums, std::vector<double>& logits) const {
  const int64_t in = steps.back().layer.out, width = mlp.head_out, size = gemm.accumulator_size;
  const int64_t first = blocks.tile_of(block) * blocks.tile;
  const bool reduces = mlp.reduce != Reduce::kNone;
  const double share = 1.0 / double(blocks.map.k);
  if (blocks.group_of(block) == 0) std::fill(sample_sums.begin(), sample_sums.end(), 0.0);
  blocks.rows(block, [&](int64_t i, int64_t row, int64_t member, int64_t sample) {
    for (int64_t o = 0; o < width; ++o) {
      const std::byte* column = head.data() + (member * width + o) * in * size;
      const std::byte* bias = head_bias.row(member) + o * size;
      double value = kernels.dot(in, operands + i * row_bytes, column);
      value += size == 8 ? *reinterpret_cast<const double*>(bias)
                         : double(*reinterpret_cast<const float*>(bias));
      logits[size_t(o)] = value;
    }
    if (!reduces) return store(row, logits, 0);
    if (mlp.reduce == Reduce::kSoftmaxMean) softmax(logits);
    for (int64_t o = 0; o < width; ++o) {
      sample_sums[size_t((sample - first) * width + o)] += share * logits[size_t(o)];
    }
  });
  if (!reduces || blocks.group_of(block) != blocks.groups - 1) return;
  const int64_t samples = std::min(blocks.tile, blocks.map.max_samples() - first);
  for (int64_t q = 0; q < samples; ++q) store(first + q, sample_sums, q * width);
}

// The results of one tile; `rows_at(group)` is where the operands of its blocks are.
template <class RowsAt>
void finish_tile(const Network& net, int64_t tile, int64_t row_bytes, const RowsAt& rows_at) {
  std::vector<double> sums(size_t(net.blocks.tile * net.mlp.head_out)),
      logits(size_t(net.mlp.head_out));
  for (int64_t group = 0; group < net.blocks.groups; ++group) {
    const int64_t block = tile * net.blocks.groups + group;
    if (net.mlp.has_head()) {
      net.write_head(block, rows_at(group), row_bytes, sums, logits);
    } else {
      net.write(block, rows_at(group), row_bytes);
    }
  }
}

void run_blocks(const Network& net, ParallelFor parallel) {
  const int64_t groups = net.blocks.groups;
  for_ranges(parallel, net.blocks.tiles, [&](int64_t begin, int64_t end) {
    Buffer sums = Buffer::sums(net.gemm, net.block_rows, net.max_width());
    Buffer operands = Buffer::operands(net.gemm, groups * net.block_rows, net.max_width());
    for (int64_t tile = begin; tile < end; ++tile) {
      for (int64_t group = 0; group < groups; ++group) {
        std::byte* block_rows = operands.row(group * net.block_rows);
        const int64_t block = tile * groups + group;
        const int64_t rows = net.read(block, block_rows, operands.row_bytes);
        for (const Step& step : net.steps) {
          net.run(step, block, rows, 0, step.layer.out, block_rows, block_rows, operands, sums);
        }
      }
      finish_tile(net, tile, operands.row_bytes,
                  [&](int64_t group) { return operands.row(group * net.block_rows); });
    }
  });
}

void run_layers(const Network& net, ParallelFor parallel) {
  const int64_t blocks = net.blocks.count(), groups = net.blocks.groups;
  Buffer from = Buffer::operands(net.gemm, blocks * net.block_rows, net.max_width());
  Buffer to = Buffer::operands(net.gemm, blocks * net.block_rows, net.max_width());
  std::vector<int64_t> rows(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b) {
    rows[size_t(b)] = net.read(b, from.row(b * net.block_rows), from.row_bytes);
  }
  for (const Step& step : net.steps) {
    const int64_t chunk = column_chunk(blocks, step.layer.out),
                  chunks = ceil_div(step.layer.out, chunk);
    for_ranges(parallel, blocks * chunks, [&](int64_t begin, int64_t end) {
      Buffer sums = Buffer::sums(net.gemm, net.block_rows, chunk);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / chunks, first = i % chunks * chunk;
        net.run(step, b, rows[size_t(b)], first, std::min(chunk, step.layer.out - first),
                from.row(b * net.block_rows), to.row(b * net.block_rows), from, sums);
      }
    });
    std::swap(from, to);
  }
  for_each(parallel, net.blocks.tiles, [&](int64_t tile) {
    finish_tile(net, tile, from.row_bytes,
                [&](int64_t group) { return from.row((tile * groups + group) * net.block_rows); });
  });
}

}  // namespace

void batch_ensemble_mlp(const Mlp& mlp, void* out, ParallelFor parallel) {
  if (mlp.layers[0].rows() == 0 || mlp.width() == 0) return;
  const Network net(mlp, out, parallel);
  if (net.blocks.count() < kEnoughTasks) return run_layers(net, parallel);
  run_blocks(net, parallel);
}

}  // namespace thrifty::ensemble
