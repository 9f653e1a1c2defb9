// gather_rows and scatter_add_rows on CUDA: a thread has 16 bytes of a row, or one element.
//
// Scatter is a gather too: the indices are sorted by place, and each row of the result collects
// what comes to it, in the order of j, so that nothing is added by two threads.
#include "core/bucket_sort_cuda.h"
#include "core/cuda/launch.h"
#include "core/element.cuh"
#include "core/product.cuh"
#include "core/scratch_arena.h"
#include "moe/token_rows_cuda.h"

namespace thrifty::moe::cuda {
namespace {

using namespace thrifty::cuda;

constexpr int kThreads = 256;

struct RowsOf {
  const void *x = nullptr, *index = nullptr;
  const void *src = nullptr, *weights = nullptr;  // src: scatter alone; weights may be absent
  Dtype index_dtype = Dtype::kInt64, weight_dtype = Dtype::kFloat32;
  const int32_t* order = nullptr;    // [batch, chosen]: scatter alone, as
  const int32_t* offsets = nullptr;  // [batch, length + 1]
  int length = 0, chosen = 0;
  int64_t width = 0, rows = 0;  // rows: of the result
  void* out = nullptr;
};

template <class T>
THRIFTY_DEVICE Sum<T> weight_of(const RowsOf& args, int64_t j) {
  return args.weights == nullptr ? Sum<T>(1)
                                 : load_element<Sum<T>>(args.weights, args.weight_dtype, j);
}

// The row and the first column of a thread.
template <int kVector>
struct Piece {
  int64_t row, column;
  THRIFTY_DEVICE explicit Piece(const RowsOf& args) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    const int64_t per_row = args.width / kVector;
    row = i / per_row, column = i % per_row * kVector;
  }
};

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) gather_rows_kernel(const RowsOf args) {
  const Piece<kVector> piece(args);
  if (piece.row >= args.rows) return;
  const int64_t at = load_integer(args.index, args.index_dtype, piece.row);
  Vec<T, kVector> out{};
  if (at >= 0 && at < args.length) {
    const int64_t row = piece.row / args.chosen * args.length + at;
    out =
        load_vec_readonly<kVector>(static_cast<const T*>(args.x) + row * args.width + piece.column);
    if (args.weights != nullptr) {
      const Sum<T> w = weight_of<T>(args, piece.row);
#pragma unroll
      for (int e = 0; e < kVector; ++e) out[e] = from_float<T>(w * to_float(out[e]));
    }
  }
  store_vec(static_cast<T*>(args.out) + piece.row * args.width + piece.column, out);
}

template <class T, int kVector>
__global__ void __launch_bounds__(kThreads) scatter_add_rows_kernel(const RowsOf args) {
  const Piece<kVector> piece(args);
  if (piece.row >= args.rows) return;
  const int64_t at = piece.row * args.width + piece.column, b = piece.row / args.length;
  const int32_t* const range = args.offsets + b * (args.length + 1) + piece.row % args.length;
  const int end = load_readonly(range + 1);
  Vec<T, kVector> out = load_vec_readonly<kVector>(static_cast<const T*>(args.x) + at);
  int o = load_readonly(range);
  if (o < end) {
    Sum<T> sum[kVector];
#pragma unroll
    for (int e = 0; e < kVector; ++e) sum[e] = to_float(out[e]);
#pragma unroll 2
    for (; o < end; ++o) {
      const int64_t j = b * args.chosen + load_readonly(args.order + b * args.chosen + o);
      const Sum<T> w = weight_of<T>(args, j);
      const auto src = load_vec_readonly<kVector>(static_cast<const T*>(args.src) + j * args.width +
                                                  piece.column);
#pragma unroll
      for (int e = 0; e < kVector; ++e) sum[e] += w * to_float(src[e]);
    }
#pragma unroll
    for (int e = 0; e < kVector; ++e) out[e] = from_float<T>(sum[e]);
  }
  store_vec(static_cast<T*>(args.out) + at, out);
}

template <class Body>
auto with_type(Dtype dtype, const Body& body) {
  switch (dtype) {
    case Dtype::kBFloat16: return body(bf16());
    case Dtype::kFloat16: return body(fp16());
    case Dtype::kFloat32: return body(float());
    default: return body(double());
  }
}

RowsOf rows_of(const TokenRowsOp& op, int64_t rows, void* out) {
  RowsOf args;
  args.x = op.x.data, args.index = op.index.data;
  args.src = op.src ? op.src.data : nullptr, args.weights = op.weights ? op.weights.data : nullptr;
  args.index_dtype = op.index.dtype, args.weight_dtype = op.weights.dtype;
  args.rows = rows, args.length = int(op.length), args.chosen = int(op.chosen);
  args.width = op.width, args.out = out;
  return args;
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

// kernels(T(), vector constant) -> the kernel.
template <class Kernels>
Status run(const char* name, Dtype dtype, const RowsOf& args, cudaStream_t stream,
           const Kernels& kernels) {
  if (args.rows == 0 || args.width == 0) return {};
  const int full = 16 / int(dtype_size(dtype));
  const bool vectors =
      args.width % full == 0 && aligned(args.x) && aligned(args.src) && aligned(args.out);
  dim3 grid;
  const int64_t threads = args.rows * (args.width / (vectors ? full : 1));
  if (!one_dimensional_grid(ceil_div(threads, kThreads), grid)) {
    return {cudaErrorInvalidConfiguration, name};
  }
  return {with_type(dtype,
                    [&]<class T>(T) {
                      return launch(kernels(T(), vectors), grid, kThreads, 0, stream, args);
                    }),
          name};
}

BucketSort sort_of(const TokenRowsOp& op, int32_t* order, int32_t* offsets) {
  return {.ids = op.index.data,
          .dtype = op.index.dtype,
          .rows = op.batch,
          .n = op.chosen,
          .buckets = op.length,
          .order = order,
          .offsets = offsets};
}

struct ScatterScratch {
  ScratchArena arena;
  int32_t *order, *offsets;
  void* counts;

  ScatterScratch(const TokenRowsOp& op, void* base)
      : arena(base),
        order(static_cast<int32_t*>(arena.take(op.batch * op.chosen * 4))),
        offsets(static_cast<int32_t*>(arena.take(op.batch * (op.length + 1) * 4))),
        counts(arena.take(bucket_sort_scratch(sort_of(op, nullptr, nullptr)))) {}
};

}  // namespace

Status gather_rows(const TokenRowsOp& op, void* out, cudaStream_t stream) {
  const RowsOf args = rows_of(op, op.batch * op.chosen, out);
  return run("gather_rows", op.x.dtype, args, stream, []<class T>(T, bool vectors) {
    return vectors ? gather_rows_kernel<T, 16 / int(sizeof(T))> : gather_rows_kernel<T, 1>;
  });
}

int64_t scatter_add_rows_scratch(const TokenRowsOp& op) {
  return op.batch * op.length == 0 ? 0 : ScatterScratch(op, nullptr).arena.used();
}

Status scatter_add_rows(const TokenRowsOp& op, void* out, void* scratch, cudaStream_t stream) {
  RowsOf args = rows_of(op, op.batch * op.length, out);
  if (args.rows == 0 || args.width == 0) return {};
  const ScatterScratch at(op, scratch);
  const Status sorted = bucket_sort(sort_of(op, at.order, at.offsets), at.counts, stream);
  if (!sorted.ok()) return sorted;
  args.order = at.order, args.offsets = at.offsets;
  return run("scatter_add_rows", op.x.dtype, args, stream, []<class T>(T, bool vectors) {
    return vectors ? scatter_add_rows_kernel<T, 16 / int(sizeof(T))>
                   : scatter_add_rows_kernel<T, 1>;
  });
}

}  // namespace thrifty::moe::cuda
