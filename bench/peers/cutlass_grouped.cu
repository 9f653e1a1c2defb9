// CUTLASS's grouped GEMM of bf16 on sm_90a (ptr-array: a TMA descriptor per group, rewritten on the
// device), as a peer of grouped_mm: d[r] = w[group of r] a[r]. Not part of the package; compiled by
// bench/peers/cutlass_grouped.py, once per schedule (-DTHRIFTY_PINGPONG=1: two tiles by turns).
#include <cutlass/bfloat16.h>
#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/epilogue/fusion/operations.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>

// Named: nvcc confuses an unnamed one with CuTe's own.
namespace peer {

using namespace cute;
using T = cutlass::bfloat16_t;
using Row = cutlass::layout::RowMajor;
using Column = cutlass::layout::ColumnMajor;
using Problem = cutlass::gemm::GroupProblemShape<Shape<int, int, int>>;

// The tiles that torch chooses for many and for few rows a group.
#if THRIFTY_PINGPONG
using Tile = Shape<_64, _128, _128>;
using Schedule = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedPingpong;
using EpilogueSchedule = cutlass::epilogue::PtrArrayTmaWarpSpecializedPingpong;
#else
using Tile = Shape<_128, _256, _64>;
using Schedule = cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative;
using EpilogueSchedule = cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative;
#endif
using Cluster = Shape<_2, _1, _1>;

using Epilogue = typename cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, T, Row*, 8, T, Row*, 8,
    EpilogueSchedule, cutlass::epilogue::fusion::LinearCombination<T, float>>::CollectiveOp;
using Mainloop = typename cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, T, Row*, 8, T, Column*, 8, float, Tile,
    Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<int(
        sizeof(typename Epilogue::SharedStorage))>,
    Schedule>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Problem, Mainloop, Epilogue>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

using StrideA = typename Kernel::InternalStrideA;
using StrideB = typename Kernel::InternalStrideB;
using StrideD = typename Kernel::InternalStrideD;

// What CUTLASS reads of each group, made on the device from the groups' ends.
struct Groups {
  typename Problem::UnderlyingProblemShape* shapes;
  const T **a, **b;
  T** d;
  StrideA* stride_a;
  StrideB* stride_b;
  StrideD* stride_d;

  // `memory`: 256-byte aligned; null: only counts.
  static size_t cut(Groups* groups, char* memory, int count) {
    size_t used = 0;
    const auto take = [&](auto*& pointer) {
      using Element = std::remove_reference_t<decltype(*pointer)>;
      pointer = reinterpret_cast<Element*>(memory + used);
      used += (size_t(count) * sizeof(Element) + 255) / 256 * 256;
    };
    take(groups->shapes), take(groups->a), take(groups->b), take(groups->d);
    take(groups->stride_a), take(groups->stride_b), take(groups->stride_d);
    return used;
  }
};

__global__ void prepare(Groups groups, const T* a, const T* w, T* d, const int* ends, int count,
                        int n, int k) {
  const int g = int(threadIdx.x + blockIdx.x * blockDim.x);
  if (g >= count) return;
  const int begin = g == 0 ? 0 : ends[g - 1];
  groups.shapes[g] = make_shape(ends[g] - begin, n, k);
  groups.a[g] = a + int64_t(begin) * k;
  groups.b[g] = w + int64_t(g) * n * k;
  groups.d[g] = d + int64_t(begin) * n;
  get<0>(groups.stride_a[g]) = k;
  get<0>(groups.stride_b[g]) = k;
  get<0>(groups.stride_d[g]) = n;
}

typename Gemm::Arguments arguments(const Groups& groups, int count, int processors) {
  cutlass::KernelHardwareInfo hardware;
  hardware.sm_count = processors;
  typename Gemm::Arguments args{
      cutlass::gemm::GemmUniversalMode::kGrouped,
      {count, groups.shapes, nullptr},
      {groups.a, groups.stride_a, groups.b, groups.stride_b},
      {{}, const_cast<const T**>(groups.d), groups.stride_d, groups.d, groups.stride_d},
      hardware};
  args.epilogue.thread.alpha = 1;
  args.epilogue.thread.beta = 0;
  return args;
}

}  // namespace peer

using namespace peer;

extern "C" {

// Bytes of workspace.
size_t grouped_gemm_workspace(int count, int processors) {
  Groups groups{};
  const size_t tables = Groups::cut(&groups, nullptr, count);
  return tables + Gemm::get_workspace_size(arguments(groups, count, processors));
}

// a [S, k], w [count, n, k], d [S, n] bf16; ends int32 [count]. 0: launched.
int grouped_gemm(const void* a, const void* w, void* d, const int* ends, int count, int n, int k,
                 int processors, void* workspace, cudaStream_t stream) {
  Groups groups{};
  const size_t tables = Groups::cut(&groups, static_cast<char*>(workspace), count);
  prepare<<<(count + 127) / 128, 128, 0, stream>>>(groups, static_cast<const T*>(a),
                                                   static_cast<const T*>(w), static_cast<T*>(d),
                                                   ends, count, n, k);
  const auto args = arguments(groups, count, processors);
  Gemm gemm;
  cutlass::Status status = gemm.can_implement(args);
  if (status != cutlass::Status::kSuccess) return int(status);
  status = gemm.initialize(args, static_cast<char*>(workspace) + tables, stream);
  if (status != cutlass::Status::kSuccess) return int(status);
  return int(gemm.run(stream));
}
}
