// The forward stage for 16-bit operands on Hopper: core_fwd.cuh's tiles and sums, by wgmma.
//
// A block stays and takes every gridDim.x-th tile. Its first warpgroup gathers: cp.async brings
// rows of keys and values, as the plan has them, into a ring of stages of 64. Two warpgroups
// multiply and weigh, each 64 of the tile's queries, which they hold in registers; one weighs while
// the other multiplies. Meanwhile the ring fills, at a tile's end for the next tile.
//
//   scores (64 x 64) = Q K^T     Q in registers, K by its rows
//   sums (64 x Dv)  += P V       P in registers, V by its columns
//
// What limits a block of 64 columns for 128 queries, in clocks of an SM: predicted from counts, as
// nothing has run on a GPU yet (4096 FLOP, 16 exponentials, 4 instructions and, by the rate of L2,
// some 24 bytes a clock; instructions as nvcc 13.0 makes them):
//
//   D = Dv             64     128
//   products          512    1024     by mma.sync, which reaches some 60 %: 850 and 1700
//   exponentials      512     512
//   gathered bytes    683    1365
//   instructions     1400    1650     420 for a warp's weights, 560 or 800 for a warp's gathers
//
// Here the larger of these is the time, as they overlap. In core_fwd.cuh, whose warps also issue
// 200 or 400 instructions for products and meet at three barriers a block, they add up in part. One
// block of 384 threads an SM: 168 registers a thread on average, 216 where they multiply; 91 and
// 171 KiB of shared memory.
#pragma once

#include <algorithm>

#include "attention/core_fwd_rows.cuh"
#include "core/cuda/launch.h"
#include "core/cuda/ring.cuh"
#include "core/cuda/wgmma.cuh"
#include "core/product.cuh"

namespace thrifty::attention::cuda {

// As wgmma leaves it: of each row pairs of columns, which alternate between the thread's two rows.
template <int kColumns_>
struct WgmmaFragment {
  static constexpr int kColumns = kColumns_;
  float d[2 * kColumns];
  static constexpr THRIFTY_DEVICE int index(int i, int j) { return j / 2 * 4 + i * 2 + j % 2; }
  THRIFTY_DEVICE float& at(int i, int j) { return d[index(i, j)]; }
  THRIFTY_DEVICE const float& at(int i, int j) const { return d[index(i, j)]; }
};

// Scores and sums lie as mma.sync's do. A tile in shared memory is panels of 64 columns, 128 bytes
// a row, swizzled. kThreads: those that load.
template <class T_, int kWidth_>
struct WgmmaTile : HalfTile<T_, 8, kWidth_> {
  using T = T_;
  using Half = HalfTile<T, 8, kWidth_>;
  static constexpr int kWidth = kWidth_, kThreads = 128, kConsumers = 256, kStages = 4;
  static constexpr int kTogether = 64, kPanel = 64, kLine = kPanel * int(sizeof(T));
  static constexpr int kBlockPanel = Half::kColumns * kLine;  // bytes of a panel of a block
  static constexpr Swizzle kSwizzle = Swizzle::bytes128;
  using Scores = WgmmaFragment<Half::kHeldColumns>;
  template <int kDims>
  using Sums = WgmmaFragment<kDims / 4>;

  template <int kTileRows>
  static THRIFTY_DEVICE int place(int row, int column) {
    const int line = swizzled(kSwizzle, uint32_t(row * kLine + column % kPanel * int(sizeof(T))));
    return column / kPanel * (kTileRows * kPanel) + line / int(sizeof(T));
  }
  static THRIFTY_DEVICE int row(int i) {
    return (int(threadIdx.x) - kThreads) / kWarpSize * 16 + i * 8 + lane_index() / 4;
  }
  static THRIFTY_DEVICE void b_fragments(uint32_t (&f)[4], const T* b, int step, int first) {
    const int lane = lane_index();
    ldmatrix<4, true>(f, b + place<Half::kColumns>(step * 16 + lane / 16 * 8 + lane % 8,
                                                   first + lane / 8 % 2 * 8));
  }
};

template <class Tile>
struct HopperShared {
  using T = typename Tile::T;
  struct Stage {
    alignas(1024) T k[Tile::kColumns * Tile::kWidth];
    alignas(1024) T v[Tile::kColumns * Tile::kWidth];
    Entries<float, Tile::kColumns> entries;
    Block block;                              // Columns::kNone: the tile's end
    bool finite[Tile::kThreads / kWarpSize];  // what each loading warp has brought of v
  };
  alignas(1024) T q[Tile::kRows * Tile::kWidth];
  Stage stages[Tile::kStages];
  Queries<Tile, Tile::kRows> queries;  // come with their tile's first stage
  Ring<Tile::kStages> ring;
  Mbarrier queries_taken;
};

// body(work, its first query) for each of a block's tiles.
template <class Tile, class Body>
THRIFTY_DEVICE void for_tiles(const FwdArgs& args, const Body& body) {
  const uint32_t tiles = uint32_t(args.tiles.count);
  const uint32_t count = uint32_t(args.core.batch * args.core.q_heads) * tiles;
#pragma unroll 1
  for (uint32_t at = blockIdx.x; at < count; at += gridDim.x) {
    const int tile = args.tiles.first + int(at % tiles);
    const Work w(args.core, args.core.q_tile_part[tile], int(at / tiles));
    body(w, (tile - w.part.q_tile) * Tile::kRows);
  }
}

template <class Tile>
struct Gatherer {
  using T = typename Tile::T;
  // cp.async of so many stages may be on their way before the oldest is announced.
  static constexpr int kLag = 2;
  static constexpr int kPerRow = Tile::kWidth / 8, kAside = Tile::kThreads / kPerRow;
  static constexpr int kRows =
      Tile::kColumns / kAside;  // of a block, of which a thread has a piece
  static_assert(kLag < Tile::kStages && kAside % 8 == 0);
  const FwdArgs& args;
  HopperShared<Tile>& m;
  RingPlace<Tile::kStages> filling, telling;
  RingPlace<1> tile_place;
  int untold = 0, filled = 0;  // stages: not announced; of the last tile
  uint32_t ends = 0;           // by stage: whether it holds a tile's end alone
  int order[kRows];            // the next block's rows, as the plan has them

  THRIFTY_DEVICE Gatherer(const FwdArgs& args, HopperShared<Tile>& m) : args(args), m(m) {}

  THRIFTY_DEVICE void tile(const Work& w, int first) {
    const CoreArgs& a = args.core;
    const Columns<Tile> columns(a, w);
    while (untold > 0 && untold >= filled) tell<0>();  // with the last tile's first its queries go
    mbarrier_wait(&m.queries_taken, 1 - tile_place.phase);
    tile_place.next(), filled = 0;
    named_barrier_sync(1, Tile::kThreads);  // nobody looks for the last tile's blocks
    m.queries.find(a, w, first);
    named_barrier_sync(1, Tile::kThreads);
    Block block = columns.next(m.queries, {-Tile::kColumns, false});
    locate(w, columns, block);
    copy<Tile::kRows>(m.q, head_of<T>(a.q, w.head, a.q_heads), a.q.row, a.d,
                      [&](int i) { return m.queries.row[row(i)]; });
#pragma unroll 1
    for (bool more = true; more; ++filled) {
      more = columns.has(block);
      mbarrier_wait(&m.ring.empty[filling.stage], 1 - filling.phase);
      auto& stage = m.stages[filling.stage];
      if (threadIdx.x == 0) stage.block = more ? block : Block{Columns<Tile>::kNone, true};
      ends = (ends & ~(1u << filling.stage)) | uint32_t(!more) << filling.stage;
      if (more) {
        fill(stage, w, columns, block);
        block = columns.next(m.queries, block);
        locate(w, columns, block);
      }
      cp_async_commit();
      filling.next();
      if (++untold > kLag) tell<kLag>();
    }
  }
  THRIFTY_DEVICE void finish() {
    while (untold > 0) tell<0>();
  }

 private:
  static THRIFTY_DEVICE int column() { return int(threadIdx.x) % kPerRow * 8; }
  static THRIFTY_DEVICE int row(int i) { return i * kAside + int(threadIdx.x) / kPerRow; }
  // Where the thread's piece of row(0) lies; every kAside rows the swizzle is the same.
  template <int kTileRows>
  static THRIFTY_DEVICE int piece() {
    return Tile::template place<kTileRows>(row(0), column());
  }

  // Asks for the places of a block's keys, one block ahead: they are on their way meanwhile.
  THRIFTY_DEVICE void locate(const Work& w, const Columns<Tile>& columns, const Block& block) {
    if (!columns.has(block) || block.listed) return;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int at = block.at + row(i);
      order[i] = at < w.part.sorted ? order_at(args.core, w.part, w.key_head, at) : 0;
    }
  }
  template <class Stage>
  THRIFTY_DEVICE void fill(Stage& stage, const Work& w, const Columns<Tile>& columns,
                           const Block& block) const {
    const CoreArgs& a = args.core;
    if (block.listed) {
      const int64_t first = columns.list_at() + block.at;
      const auto entry = [&](int i) { return block.at + row(i) < columns.entries ? row(i) : -1; };
      copy<Tile::kColumns>(stage.k, static_cast<const T*>(a.list.k) + first * a.list.k_ld,
                           a.list.k_ld, a.d, entry);
      copy<Tile::kColumns>(stage.v, static_cast<const T*>(a.list.v) + first * a.list.v_ld,
                           a.list.v_ld, a.dv, entry);
      stage.entries.template load<Tile::kThreads>(a.list, columns.list_at(), block.at,
                                                  columns.entries);
    } else {
      const auto key = [&](int i) {
        return block.at + row(i) < w.part.sorted ? key_row(w.part, order[i]) : -1;
      };
      copy<Tile::kColumns>(stage.k, head_of<T>(a.k, w.key_head, a.k_heads), a.k.row, a.d, key);
      copy<Tile::kColumns>(stage.v, head_of<T>(a.v, w.key_head, a.k_heads), a.v.row, a.dv, key);
    }
  }
  // Rows source(i) of `from` as the tile's rows row(i); zeros for -1, and from column `width` on.
  template <int kTileRows, class Source>
  static THRIFTY_DEVICE void copy(T* tile, const T* from, int64_t stride, int width,
                                  const Source& source) {
    T* const to = tile + piece<kTileRows>();
#pragma unroll 8
    for (int i = 0; i < kTileRows / kAside; ++i) {
      const int at = source(i);
      const bool valid = at >= 0 && column() < width;
      cp_async<16>(to + i * (kAside * Tile::kPanel), valid ? from + at * stride + column() : from,
                   valid);
    }
  }

  // Announces the oldest stage that this warp has not.
  template <int kPending>
  THRIFTY_DEVICE void tell() {
    auto& stage = m.stages[telling.stage];
    cp_async_wait<kPending>();
    bool finite = true;
    if ((ends >> telling.stage & 1) == 0) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        finite =
            finite_chunk(stage.v + piece<Tile::kColumns>() + i * (kAside * Tile::kPanel)) && finite;
      }
    }
    finite = warp_all(finite);
    if (lane_index() == 0) stage.finite[threadIdx.x / kWarpSize] = finite;
    fence_async_shared();
    syncwarp();
    if (lane_index() == 0) mbarrier_arrive(&m.ring.full[telling.stage]);
    telling.next();
    --untold;
  }
};

template <class Tile>
struct Multiplier {
  using T = typename Tile::T;
  static constexpr int kSteps = Tile::kWidth / 16;
  const FwdArgs& args;
  HopperShared<Tile>& m;
  RingPlace<Tile::kStages> place;

  THRIFTY_DEVICE Multiplier(const FwdArgs& args, HopperShared<Tile>& m) : args(args), m(m) {}

  THRIFTY_DEVICE void tile(const Work& w) {
    const CoreArgs& a = args.core;
    mbarrier_wait(&m.ring.full[place.stage], place.phase);
    FwdRows<Tile> rows(m.queries);
    uint32_t q[kSteps][4];
    take_queries(q);
    arrive(&m.queries_taken);
    if (a.list.with_var) square(rows, q);
    rows.resume(args, w);
#pragma unroll 1
    for (;;) {
      const auto& stage = m.stages[place.stage];
      const Block block{stage.block.at, stage.block.listed};
      if (block.at == Columns<Tile>::kNone) break;
      if (rows.reads(block)) multiply(rows, q, stage, block);
      arrive(&m.ring.empty[place.stage]);
      place.next();
      mbarrier_wait(&m.ring.full[place.stage], place.phase);
    }
    arrive(&m.ring.empty[place.stage]);
    place.next();
    rows.finish(args, w);
  }

 private:
  static THRIFTY_DEVICE void arrive(Mbarrier* barrier) {
    syncwarp();
    if (lane_index() == 0) mbarrier_arrive(barrier);
  }

  THRIFTY_DEVICE void take_queries(uint32_t (&q)[kSteps][4]) const {
    const int row = Tile::row(0) - lane_index() / 4 + lane_index() % 16;
    const int at = Tile::template place<Tile::kRows>(row, lane_index() / 16 * 8);
    constexpr int kPanelSteps = Tile::kPanel / 16;  // of a panel; the swizzle flips bits of columns
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int panel = step / kPanelSteps * (Tile::kRows * Tile::kPanel);
      ldmatrix<4>(q[step], m.q + panel + (at ^ step % kPanelSteps * 16));
    }
  }
  THRIFTY_DEVICE void square(FwdRows<Tile>& rows, const uint32_t (&q)[kSteps][4]) const {
    const float scale = float(args.core.scale);
#pragma unroll
    for (int i = 0; i < Tile::kHeld; ++i) {
      float sum = 0;
#pragma unroll
      for (int n = 0; n < kSteps * 2; ++n) {
        const float2 x = unpack2_to_float<T>(q[n / 2][n % 2 * 2 + i]);
        sum += x.x * x.x + x.y * x.y;
      }
      rows.q2[i] = scale * scale / 2 * Tile::across(sum, [](float x, float y) { return x + y; });
    }
  }

  template <class Stage>
  THRIFTY_DEVICE void multiply(FwdRows<Tile>& rows, const uint32_t (&q)[kSteps][4],
                               const Stage& stage, const Block& block) const {
    typename Tile::Scores s;
    wgmma_fence(s.d);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      wgmma<T, Tile::kColumns>(s.d, q[step],
                               wgmma_operand<Tile::kSwizzle>(stage.k, Tile::kBlockPanel, step * 16),
                               step > 0);
    }
    wgmma_commit();
    wgmma_wait<0>(s.d);
    rows.weigh(s, block, float(args.core.scale), stage.entries);

    auto& sums = rows.softmax.sums;
    bool finite = true;
#pragma unroll
    for (int i = 0; i < Tile::kThreads / kWarpSize; ++i) finite = finite && stage.finite[i];
    if (!finite) {
      accumulate_kinds<Tile, Tile::kWidth>(sums, s, stage.v, args.core.dv);
      return;
    }
    uint32_t p[Tile::kColumns / 16][4];
#pragma unroll
    for (int step = 0; step < Tile::kColumns / 16; ++step) {
      Tile::fragments(p[step], s, step, [](float value) { return value; });
    }
    wgmma_fence(sums.d);
#pragma unroll
    for (int step = 0; step < Tile::kColumns / 16; ++step) {
      wgmma<T, Tile::kWidth, Major::mn>(
          sums.d, p[step],
          wgmma_operand<Tile::kSwizzle, Major::mn>(stage.v, Tile::kBlockPanel, step * 16));
    }
    wgmma_commit();
    wgmma_wait<0>(sums.d);
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads + Tile::kConsumers, 1)
    core_fwd_sm90_kernel(const __grid_constant__ FwdArgs args) {
  THRIFTY_DYNAMIC_SHARED(HopperShared<Tile>, shared);
  HopperShared<Tile>& m = *shared;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < Tile::kStages; ++stage) {
      mbarrier_init(&m.ring.full[stage], Tile::kThreads / kWarpSize);
      mbarrier_init(&m.ring.empty[stage], Tile::kConsumers / kWarpSize);
    }
    mbarrier_init(&m.queries_taken, Tile::kConsumers / kWarpSize);
    fence_mbarrier_init();
  }
  syncthreads();
  if (uniform_warpgroup_index() == 0) {
    setmaxnreg_decrease<72>();
    Gatherer<Tile> gatherer(args, m);
    for_tiles<Tile>(args, [&](const Work& w, int first) { gatherer.tile(w, first); });
    gatherer.finish();
  } else {
    setmaxnreg_increase<216>();
    Multiplier<Tile> multiplier(args, m);
    for_tiles<Tile>(args, [&](const Work& w, int) { multiplier.tile(w); });
  }
}

template <class Tile>
cudaError_t launch_fwd_sm90(const FwdArgs& args, int processors, cudaStream_t stream) {
  dim3 grid;
  const int64_t heads = int64_t(args.core.batch) * args.core.q_heads;
  if (!one_dimensional_grid(heads * args.tiles.count, grid)) return cudaErrorInvalidValue;
  grid.x = std::min(grid.x, unsigned(processors));
  return launch(core_fwd_sm90_kernel<Tile>, grid, dim3(Tile::kThreads + Tile::kConsumers),
                sizeof(HopperShared<Tile>), stream, args);
}

// Rows of 16-byte pieces, D and Dv up to 128.
template <class T>
cudaError_t start_fwd_sm90(int width, const FwdArgs& args, int processors, cudaStream_t stream) {
  const CoreArgs& a = args.core;
  const bool fits = width <= 128 && a.q.bytes == 16 && a.k.bytes == 16 && a.v.bytes == 16;
  if (!fits) return cudaErrorNotSupported;
  return width <= 64 ? launch_fwd_sm90<WgmmaTile<T, 64>>(args, processors, stream)
                     : launch_fwd_sm90<WgmmaTile<T, 128>>(args, processors, stream);
}

}  // namespace thrifty::attention::cuda
