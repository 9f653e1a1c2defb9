// Forward of a batch-ensemble or packed layer on the CPU: per block of rows, u = x r, one product,
// and the epilogue while the sums are in cache. Nothing of size (B, k, .) is written but the
// results.
#include "ensemble/blocks.h"

namespace thrifty::ensemble {
namespace {

struct Forward {
  const Layer& layer;
  const Blocks blocks;
  const LayerVectors vectors;
  const GemmKernels& gemm = gemm_kernels(layer.dtype);
  const RowKernels& kernels = row_kernels(layer.dtype);
  const std::byte* panels;
  std::byte *out, *z;
};

// The scratch of one thread.
class Worker {
 public:
  Worker(const Forward& forward, int64_t max_width)
      : f_(forward),
        layer_(forward.layer),
        operands_(Buffer::operands(f_.gemm, kBlockRows, layer_.in)),
        sums_(Buffer::sums(f_.gemm, kBlockRows, max_width)),
        mask_(Buffer::sums(f_.gemm, 1, max_width)) {}

  // Columns [first, first + width) of one block.
  void run(int64_t block, int64_t first, int64_t width) {
    const int64_t rows =
        f_.blocks.rows(block, [&](int64_t i, int64_t row, int64_t member, int64_t) {
          f_.kernels.scale_input(layer_.in, layer_.x_row(row),
                                 layer_.r ? f_.vectors.r.row(member) : nullptr, operands_.row(i));
        });
    const int64_t member = layer_.packed ? f_.blocks.group_of(block) : 0;
    const std::byte* panels = f_.panels + member * f_.gemm.panels_bytes(layer_.in, layer_.out) +
                              first / f_.gemm.nr * f_.gemm.panel_bytes(layer_.in);
    f_.gemm.gemm(rows, width, layer_.in, operands_.row(0), operands_.width, panels, sums_.row(0),
                 sums_.width, false);
    finish(block, first, width);
  }

 private:
  void finish(int64_t block, int64_t first, int64_t width) {
    const bool drops = layer_.dropout.enabled();
    f_.blocks.rows(block, [&](int64_t i, int64_t row, int64_t member, int64_t) {
      if (drops) {
        f_.kernels.dropout_mask(width, layer_.dropout, uint32_t(row), first, mask_.row(0));
      }
      const LayerRow with = f_.vectors.row(layer_, member, first, drops ? mask_.row(0) : nullptr);
      const int64_t at = (row * layer_.out + first) * dtype_size(layer_.dtype);
      f_.kernels.finish(width, sums_.row(i), with, f_.z ? f_.z + at : nullptr, f_.out + at);
    });
  }

  const Forward& f_;
  const Layer& layer_;
  Buffer operands_, sums_, mask_;
};

}  // namespace

void linear_fwd(const Layer& layer, void* out, void* z, ParallelFor parallel) {
  if (layer.rows() == 0 || layer.out == 0) return;
  Scratch packed;
  const void* panels = layer.packed_weight;
  if (panels == nullptr) {
    packed = pack_weights(layer, false, parallel);
    panels = packed.data();
  }
  // Without a weight per member, a block is kBlockRows consecutive rows of memory.
  const int64_t tile = layer.packed ? kBlockRows : kBlockRows / layer.map.k;
  const Forward forward{.layer = layer,
                        .blocks = Blocks(layer.map, tile, layer.packed, layer.packed),
                        .vectors = LayerVectors(layer),
                        .panels = static_cast<const std::byte*>(panels),
                        .out = static_cast<std::byte*>(out),
                        .z = static_cast<std::byte*>(z)};
  const int64_t chunk = column_chunk(forward.blocks.count(), layer.out);
  const int64_t chunks = ceil_div(layer.out, chunk);
  for_ranges(parallel, forward.blocks.count() * chunks, [&](int64_t begin, int64_t end) {
    Worker worker(forward, chunk);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % chunks * chunk;
      worker.run(i / chunks, first, std::min(chunk, layer.out - first));
    }
  });
}

}  // namespace thrifty::ensemble
