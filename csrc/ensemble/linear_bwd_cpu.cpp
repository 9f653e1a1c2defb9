// Backward of a batch-ensemble or packed layer on the CPU: two products a layer and nothing else.
// Per block of rows dz is made in cache from grad and z (rows.h), then used twice:
//
//   g  = dz W      dx = g r (summed over members when x is shared),  dr_j = sum x g
//   dW = dz^T u    (packed layer: dW_j = x_j^T dz_j)
//
// When dr is wanted but dx is not (a first layer), g is not needed either: with D_j = dz_j^T x_j,
// the weight gradient of one member before r, dW = sum_j D_j diag(r_j) and dr_j = colsum(W o D_j),
// which saves one of the two products.
//
// Deterministic: blocks are dealt to tasks by shape alone, each task sums its own blocks in order,
// and the partial sums are added in order of the tasks.
#include <cstring>
#include <vector>

#include "ensemble/blocks.h"

namespace thrifty::ensemble {
namespace {

// Tasks of a sweep. Each costs a dW of its own to clear and to add, about 5% of the work of
// kMinTaskRows rows.
constexpr int64_t kMaxTasks = 32, kMinTaskRows = 1024;

// Samples per member in a block: long runs keep a member's sums in the first-level cache, several
// members per block keep the rows that are read together close in memory.
constexpr int64_t kTile = 24;

// Below this many samples the product for D_j is too short to be worth its separate sums.
constexpr int64_t kMinSamplesForMemberGrad = 64;

struct Plan {
  bool dx, g;        // input gradient wanted; g computed
  bool weight;       // dW, or D_j for dr
  bool member_grad;  // dr through D_j
};

Plan make_plan(const Layer& layer, const LayerGrads& grads) {
  Plan plan{};
  plan.dx = grads.x != nullptr;
  plan.member_grad = grads.r != nullptr && !plan.dx && !layer.packed &&
                     layer.map.max_samples() >= kMinSamplesForMemberGrad;
  plan.g = plan.dx || (grads.r != nullptr && !plan.member_grad);
  plan.weight = grads.weight != nullptr || plan.member_grad;
  return plan;
}

// A task's own sums, zeroed: a row for each member, or for each row of the weight.
struct Sums {
  Scratch data;
  int64_t rows = 0, row_bytes = 0;

  Sums() = default;
  Sums(bool wanted, int64_t rows, int64_t row_bytes)
      : rows(wanted ? rows : 0), row_bytes(row_bytes) {
    if (!wanted) return;
    data = Scratch(std::max<int64_t>(1, rows * row_bytes));
    std::memset(data.data(), 0, size_t(rows * row_bytes));
  }
  std::byte* row(int64_t i) { return rows > 0 ? data.data() + i * row_bytes : nullptr; }
};

struct TaskSums {
  Sums r, s, bias, r_next, weight;
};

// Everything a sweep over the blocks reads; `panels` are the weights for g = dz W.
struct Backward {
  const Layer& layer;
  const std::byte *grad, *z;
  const LayerGrads& grads;
  const Plan plan;
  const Blocks blocks;
  const LayerVectors vectors;
  const std::byte* panels;
  const GemmKernels& gemm = gemm_kernels(layer.dtype);
  const RowKernels& kernels = row_kernels(layer.dtype);
  const int64_t storage = dtype_size(layer.dtype), accumulator = gemm.accumulator_size;

  // dW of the layer is [out, in]; the packed one, [in, out] a member.
  int64_t weight_rows() const { return layer.packed ? layer.in : layer.out; }
  int64_t weight_width() const { return layer.packed ? layer.out : layer.in; }
};

// One task: a run of blocks, its scratch and its sums.
class Task {
 public:
  Task(const Backward& with, TaskSums& sums)
      : with_(with),
        layer_(with.layer),
        gemm_(with.gemm),
        sums_(sums),
        dz_(Buffer::operands(gemm_, kBlockRows, layer_.out)),
        mask_(Buffer::sums(gemm_, 1, layer_.out)) {
    if (with.plan.g) g_ = Buffer::sums(gemm_, kBlockRows, layer_.in);
    if (with.plan.weight) {
      u_ = Buffer::operands(gemm_, kBlockRows, layer_.in);
      panels_ = Scratch(gemm_.panels_bytes(kBlockRows, with.weight_width()));
      product_ = Buffer::sums(gemm_, with.weight_rows(), with.weight_width());
    }
    if (with.plan.dx && layer_.shared_x) dx_ = Buffer::sums(gemm_, with.blocks.tile, layer_.in);
  }

  void run(int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
      const int64_t rows = make_dz(block);
      if (rows == 0) continue;
      if (with_.plan.g) input_grad(block, rows);
      if (with_.plan.weight) weight_grad(block, rows);
    }
    flush_weight();
    // A task whose blocks were all empty (the last rows of grouped members) still has a sum.
    if (with_.plan.weight && !layer_.packed && sums_.weight.rows == 0) {
      sums_.weight = Sums(true, layer_.out, layer_.in * with_.accumulator);
    }
  }

 private:
  int64_t make_dz(int64_t block) {
    const bool drops = layer_.dropout.enabled();
    const int64_t row_bytes = layer_.out * with_.storage;
    return with_.blocks.rows(block, [&](int64_t i, int64_t row, int64_t j, int64_t) {
      if (drops) {
        with_.kernels.dropout_mask(layer_.out, layer_.dropout, uint32_t(row), 0, mask_.row(0));
      }
      const LayerRow with = with_.vectors.row(layer_, j, 0, drops ? mask_.row(0) : nullptr);
      with_.kernels.backward(layer_.out, with_.grad + row * row_bytes,
                             with_.z != nullptr ? with_.z + row * row_bytes : nullptr, with,
                             dz_.row(i), {sums_.r_next.row(j), sums_.bias.row(j), sums_.s.row(j)});
    });
  }

  void input_grad(int64_t block, int64_t rows) {
    const int64_t in = layer_.in, tile = with_.blocks.tile_of(block);
    const int64_t member = layer_.packed ? with_.blocks.group_of(block) : 0;
    gemm_.gemm(rows, in, layer_.out, dz_.row(0), dz_.width,
               with_.panels + member * gemm_.panels_bytes(layer_.out, in), g_.row(0), g_.width,
               false);
    const bool sums_dx = with_.plan.dx && layer_.shared_x;
    if (sums_dx && with_.blocks.group_of(block) == 0) {
      std::memset(dx_.row(0), 0, size_t(with_.blocks.tile * dx_.row_bytes));
    }
    const int64_t first = tile * with_.blocks.tile;
    auto* dx = static_cast<std::byte*>(with_.grads.x);
    with_.blocks.rows(block, [&](int64_t i, int64_t row, int64_t j, int64_t sample) {
      with_.kernels.input_grad(
          in, g_.row(i), layer_.x_row(row), layer_.r ? with_.vectors.r.row(j) : nullptr,
          with_.plan.dx && !layer_.shared_x ? dx + row * in * with_.storage : nullptr,
          sums_dx ? dx_.row(sample - first) : nullptr, sums_.r.row(j));
    });
    if (sums_dx && with_.blocks.group_of(block) == with_.blocks.groups - 1) flush_input(first);
  }

  void flush_input(int64_t first) {
    auto* dx = static_cast<std::byte*>(with_.grads.x);
    const int64_t last = std::min(first + with_.blocks.tile, with_.blocks.map.max_samples());
    for (int64_t b = first; b < last; ++b) {
      with_.kernels.to_storage(layer_.in, dx_.row(b - first), dx + b * layer_.in * with_.storage);
    }
  }

  // product_ (+)= dz^T u, or u^T dz when each member has its weight.
  void weight_grad(int64_t block, int64_t rows) {
    const bool scales = layer_.r && !with_.plan.member_grad;
    with_.blocks.rows(block, [&](int64_t i, int64_t row, int64_t j, int64_t) {
      with_.kernels.scale_input(layer_.in, layer_.x_row(row),
                                scales ? with_.vectors.r.row(j) : nullptr, u_.row(i));
    });
    clear_tail(u_, rows);
    clear_tail(dz_, rows);
    const bool per_member = layer_.packed || with_.plan.member_grad;
    const int64_t member = per_member ? with_.blocks.group_of(block) : 0;
    if (member != member_) flush_weight();
    Buffer &a = layer_.packed ? u_ : dz_, &b = layer_.packed ? dz_ : u_;
    gemm_.pack_operand(rows, with_.weight_width(), {b.row(0), b.width, 1}, panels_.data());
    gemm_.gemm_t(with_.weight_rows(), with_.weight_width(), rows, a.row(0), a.width, panels_.data(),
                 product_.row(0), product_.width, member_ == member);
    member_ = member;
  }

  // The products read rows in steps of `depth`; rows left over from an earlier block must not
  // count.
  void clear_tail(Buffer& buffer, int64_t rows) {
    const int64_t end = round_up(rows, gemm_.depth);
    std::memset(buffer.row(rows), 0, size_t((end - rows) * buffer.row_bytes));
  }

  // Hands on the product of the member that has just ended; a product that all members share is the
  // task's sum already.
  void flush_weight() {
    if (member_ < 0) return;
    if (!layer_.packed && !with_.plan.member_grad) {
      sums_.weight.data = std::move(product_.data);
      sums_.weight.rows = layer_.out, sums_.weight.row_bytes = product_.row_bytes;
      return;
    }
    const int64_t n = with_.weight_width();
    for (int64_t i = 0; i < with_.weight_rows(); ++i) {
      if (layer_.packed) {
        auto* dw = static_cast<std::byte*>(with_.grads.weight);
        const int64_t row = member_ * with_.weight_rows() + i;
        with_.kernels.to_storage(n, product_.row(i), dw + row * n * with_.storage);
      } else {
        const auto* w = static_cast<const std::byte*>(layer_.weight) + i * n * with_.storage;
        with_.kernels.weight_grad(n, product_.row(i), w, with_.vectors.r.row(member_),
                                  sums_.weight.row(i), sums_.r.row(member_));
      }
    }
    member_ = -1;
  }

  const Backward& with_;
  const Layer& layer_;
  const GemmKernels& gemm_;
  TaskSums& sums_;
  Buffer dz_, mask_, g_, u_, product_, dx_;
  Scratch panels_;
  int64_t member_ = -1;  // whose product is in product_; 0 when all share one
};

// Adds the tasks' sums in order and stores them as a gradient of rows of `width`; `folded`: all
// rows into one.
void reduce(const Backward& with, std::vector<TaskSums>& tasks, Sums TaskSums::* sums,
            int64_t width, bool folded, Dtype dtype, void* out, ParallelFor parallel) {
  if (out == nullptr) return;
  const int64_t rows = (tasks[0].*sums).rows;
  for_each(parallel, folded ? 1 : rows, [&](int64_t row) {
    std::byte* total = (tasks[0].*sums).row(row);
    for (int64_t i = row; i < (folded ? rows : row + 1); ++i) {
      for (size_t t = 0; t < tasks.size(); ++t) {
        if (t > 0 || i > row) with.kernels.add(width, (tasks[t].*sums).row(i), total);
      }
    }
    row_kernels(dtype).to_storage(width, total,
                                  static_cast<std::byte*>(out) + row * width * dtype_size(dtype));
  });
}

int64_t task_count(const Layer& layer, int64_t units) {
  const int64_t by_rows = layer.packed ? kMaxTasks : ceil_div(layer.rows(), kMinTaskRows);
  return std::min({units, kMaxTasks, by_rows});
}

// One sweep over all blocks: whole tiles to a task where a task sums dx over members, whole members
// where each has its own weight.
void sweep(const Layer& layer, const std::byte* grad, const std::byte* z, const LayerGrads& grads,
           bool member_major, ParallelFor parallel) {
  const Plan plan = make_plan(layer, grads);
  const Scratch panels = plan.g ? pack_weights(layer, true, parallel) : Scratch();
  const bool one_member = layer.packed || plan.member_grad;
  const Backward with{
      .layer = layer,
      .grad = grad,
      .z = z,
      .grads = grads,
      .plan = plan,
      .blocks = Blocks(layer.map, one_member ? kBlockRows : kTile, one_member, member_major),
      .vectors = LayerVectors(layer),
      .panels = panels.data()};
  const Blocks& blocks = with.blocks;
  const bool by_tile = plan.dx && layer.shared_x, by_member = layer.packed && plan.weight;
  const int64_t unit = by_tile ? blocks.groups : by_member ? blocks.tiles : 1;
  const int64_t units = blocks.count() / unit, count = task_count(layer, units);
  const int64_t k = layer.map.k, in = layer.in, out = layer.out, size = with.accumulator;
  std::vector<TaskSums> tasks(static_cast<size_t>(count));
  for_each(parallel, count, [&](int64_t t) {
    TaskSums& sums = tasks[size_t(t)];
    sums = {Sums(grads.r, k, in * size), Sums(grads.s, k, out * size),
            Sums(grads.bias, k, out * size), Sums(grads.r_next, k, out * size),
            Sums(plan.member_grad, out, in * size)};
    Task(with, sums).run(units * t / count * unit, units * (t + 1) / count * unit);
  });
  const bool shared_bias = layer.bias && layer.bias.ndim == 1;
  reduce(with, tasks, &TaskSums::r, in, false, layer.r.dtype, grads.r, parallel);
  reduce(with, tasks, &TaskSums::s, out, false, layer.s.dtype, grads.s, parallel);
  reduce(with, tasks, &TaskSums::bias, out, shared_bias, layer.bias.dtype, grads.bias, parallel);
  reduce(with, tasks, &TaskSums::r_next, out, false, layer.r_next.dtype, grads.r_next, parallel);
  if (!layer.packed) {
    reduce(with, tasks, &TaskSums::weight, in, false, layer.dtype, grads.weight, parallel);
  }
}

void zero(void* data, int64_t elements, Dtype dtype) {
  if (data != nullptr) std::memset(data, 0, size_t(elements * dtype_size(dtype)));
}

// No rows: every sum is over nothing.
void zero_grads(const Layer& layer, const LayerGrads& grads) {
  const int64_t weights = (layer.packed ? layer.map.k : 1) * layer.in * layer.out;
  zero(grads.weight, weights, layer.dtype);
  zero(grads.r, layer.r ? layer.r.numel() : 0, layer.r.dtype);
  zero(grads.s, layer.s ? layer.s.numel() : 0, layer.s.dtype);
  zero(grads.bias, layer.bias ? layer.bias.numel() : 0, layer.bias.dtype);
  zero(grads.r_next, layer.r_next ? layer.r_next.numel() : 0, layer.r_next.dtype);
}

}  // namespace

void linear_bwd(const Layer& layer, const void* grad_, const void* z_, const LayerGrads& grads,
                ParallelFor parallel) {
  const auto *grad = static_cast<const std::byte*>(grad_), *z = static_cast<const std::byte*>(z_);
  if (layer.rows() == 0) return zero_grads(layer, grads);
  if (!layer.packed) {
    return sweep(layer, grad, z, grads, make_plan(layer, grads).member_grad, parallel);
  }
  // Packed: dx goes tile by tile, dW and dbias member by member.
  const LayerGrads input{.x = grads.x}, rest{.weight = grads.weight, .bias = grads.bias};
  if (input.x != nullptr) sweep(layer, grad, z, input, !layer.shared_x, parallel);
  if (rest.weight != nullptr || rest.bias != nullptr) {
    sweep(layer, grad, z, rest, true, parallel);
  }
}

}  // namespace thrifty::ensemble
