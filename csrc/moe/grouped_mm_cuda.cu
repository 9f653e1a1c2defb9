// grouped_mm on CUDA: fills in the kernels' arguments, and writes the rows behind the last group.
#include "moe/grouped_mm_cuda.h"

#include "core/cuda/launch.h"
#include "moe/grouped_launch.h"

namespace thrifty::moe::cuda {
namespace {

constexpr int kThreads = 256, kTailBlocks = 264;

// Rows of no group: zeros, or what is added. Few blocks walk over them: as a rule there are none.
template <class A>
__global__ void __launch_bounds__(kThreads)
    grouped_tail_kernel(Groups groups, RowFinish finish, Dtype dtype) {
  const int64_t n = finish.columns, begin = groups.last() * n, end = groups.rows * n;
  for (int64_t i = begin + int64_t(blockIdx.x) * kThreads + threadIdx.x; i < end;
       i += int64_t(gridDim.x) * kThreads) {
    const A value = finish.added == nullptr
                        ? A(0)
                        : load_element<A>(finish.added, dtype, i / n * finish.added_stride + i % n);
    store_element(finish.out, finish.wide_out ? Dtype::kFloat32 : dtype, i, value);
  }
}

Groups groups_of(const GroupedMm& product, int64_t rows) {
  return {product.offs.data, product.offs.dtype, int(product.groups()), int(rows)};
}

RowFinish finish_of(const GroupedMm& product, void* out) {
  const Dtype dtype = product.a.dtype;
  RowFinish finish;
  finish.columns = finish.bias_width = int(product.n);
  if (product.bias) finish.bias = {product.bias.data, product.bias.dtype};
  if (product.row_scale) finish.scale = {product.row_scale.data, product.row_scale.dtype};
  finish.out = out, finish.wide_out = product.out_dtype != dtype;
  finish.pairs = even_rows(product.out_dtype, out, {product.n});
  if (product.added) {
    finish.added = product.added.data, finish.added_stride = product.added.strides[0];
    finish.pairs = finish.pairs && even_rows(dtype, finish.added, {product.n, finish.added_stride});
  }
  return finish;
}

Status by_rows(const GroupedMm& product, void* out, cudaStream_t stream) {
  const Dtype dtype = product.a.dtype;
  RowsArgs args;
  args.a = row_source(dtype, product.a.data, product.a.shape[0], product.k, product.a.strides[0]);
  if (product.a_idx) args.a.index = product.a_idx.data, args.a.index_dtype = product.a_idx.dtype;
  args.b = group_weights(weights_of(product.b, true), false);
  args.groups = groups_of(product, product.rows);
  args.finish = finish_of(product, out);
  const Status status{launch_rows(dtype, args, stream), "grouped_mm"};
  if (!status.ok() || product.rows == 0) return status;
  const int64_t blocks = ceil_div(product.rows * product.n, kThreads);
  const dim3 grid(unsigned(std::min<int64_t>(blocks, kTailBlocks)));
  const auto kernel =
      dtype == Dtype::kFloat64 ? grouped_tail_kernel<double> : grouped_tail_kernel<float>;
  return {launch(kernel, grid, kThreads, 0, stream, args.groups, args.finish, dtype),
          "grouped_tail"};
}

DepthRows depth_rows(const Array& array, int64_t width, int64_t stride) {
  return {array.data, stride, int(width), access_width(array.dtype, array.data, {width, stride})};
}

Status by_depth(const GroupedMm& product, void* out, cudaStream_t stream) {
  DepthArgs args;
  args.a = depth_rows(product.a, product.rows, product.a.strides[1]);
  args.b = depth_rows(product.b, product.n, product.b.strides[0]);
  args.groups = groups_of(product, product.k);
  args.out = out, args.wide_out = product.out_dtype != product.a.dtype;
  args.vector = access_width(product.out_dtype, out, {product.n}) >= 4;
  return {launch_depth(product.a.dtype, args, stream), "grouped_mm"};
}

}  // namespace

void check_grouped(const GroupedMm& product) {
  const char* const op = "grouped_mm";
  check_size(op, "a: rows", product.rows);
  check_size(op, "a: columns", product.k);
  check_size(op, "b: columns", product.n);
  check_size(op, "offs", product.groups());
  const Array& a = product.a;
  THRIFTY_CHECK(!product.by_depth || a.strides[0] == 1 || a.shape[0] <= 1, op,
                ": a: expected contiguous columns for 2d x 2d on CUDA, got stride ", a.strides[0]);
}

Status grouped_mm(const GroupedMm& product, void* out, cudaStream_t stream) {
  if (product.groups() == 0 && product.by_depth) return {};
  return product.by_depth ? by_depth(product, out, stream) : by_rows(product, out, stream);
}

}  // namespace thrifty::moe::cuda
