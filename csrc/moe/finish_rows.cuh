// What follows a grouped product: a warp walks along a row of the block's sums, two columns a lane.
#pragma once

#include "core/cuda/index.cuh"
#include "core/cuda/memory.cuh"
#include "moe/grouped_args.h"

namespace thrifty::moe::cuda {

template <class A>
struct Two {
  A x = 0, y = 0;
};

// Of a row's two elements from `at` on, the second only where `left` says that it is there.
template <class T, class A>
THRIFTY_DEVICE void store_two(void* to, int64_t at, int left, bool pairs, A x, A y) {
  T* const out = static_cast<T*>(to) + at;
  const Vec<T, 2> pair{{from_float<T>(x), from_float<T>(y)}};
  if (pairs && left >= 2) {
    store_vec(out, pair);
  } else {
    out[0] = pair[0];
    if (left >= 2) out[1] = pair[1];
  }
}

template <class T>
THRIFTY_DEVICE Two<Sum<T>> load_two(const void* from, int64_t at, int left, bool pairs) {
  const T* const in = static_cast<const T*>(from) + at;
  if (pairs && left >= 2) {
    const Vec<T, 2> pair = load_vec<2>(in);
    return {to_float(pair[0]), to_float(pair[1])};
  }
  return {to_float(in[0]), left >= 2 ? to_float(in[1]) : 0};
}

// kN columns of sums, [rows][kStride] in shared memory: number tile_n of those side by side.
template <class T, int kN, int kStride>
struct RowFinisher {
  using A = Sum<T>;
  const RowFinish& finish;
  const A* const data;
  const GroupTile& rows;
  const int tile_n, all_rows;
  const PhiOf<A> phi;

  THRIFTY_DEVICE RowFinisher(const RowFinish& finish, const A* data, const GroupTile& rows,
                             int tile_n, int all_rows)
      : finish(finish),
        data(data),
        rows(rows),
        tile_n(tile_n),
        all_rows(all_rows),
        phi(finish.phi) {}

  // A warp's rows: first, first + step, ... below `count` and the group's end.
  THRIFTY_DEVICE void run(int first, int step, int count) const {
#pragma unroll 1
    for (int row = first; row < count && rows.m + row < rows.end; row += step) {
      switch (finish.kind) {
        case Finish::kStore: store(row); break;
        case Finish::kUp: up(row); break;
        default: up_grad(row);
      }
    }
  }

 private:
  THRIFTY_DEVICE Two<A> sums(int row, int column) const {
    const auto pair = load_vec<2>(data + row * kStride + column);
    return Two<A>{pair[0], pair[1]};
  }
  THRIFTY_DEVICE A scale(int r) const {
    if (finish.scale.data == nullptr) return 1;
    return finish.scale.template get<A>(finish.scale_index == nullptr ? r : finish.scale_index[r]);
  }
  THRIFTY_DEVICE A bias(int column) const {
    if (finish.bias.data == nullptr) return 0;
    return finish.bias.template get<A>(int64_t(rows.group) * finish.bias_width + column);
  }

  THRIFTY_DEVICE void store(int row) const {
    const int r = rows.m + row;
    const A by = scale(r);
    for (int column = 2 * lane_index(); column < kN; column += 2 * kWarpSize) {
      const int n = tile_n * kN + column, left = finish.columns - n;
      if (left <= 0) break;
      Two<A> value = sums(row, column);
      value.x = by * (value.x + bias(n));
      value.y = by * (value.y + (left >= 2 ? bias(n + 1) : 0));
      if (finish.added != nullptr) {
        const Two<A> more =
            load_two<T>(finish.added, r * finish.added_stride + n, left, finish.pairs);
        value.x += more.x, value.y += more.y;
      }
      const int64_t at = int64_t(r) * finish.columns + n;
      if (finish.wide_out) {
        store_two<float>(finish.out, at, left, finish.pairs, value.x, value.y);
      } else {
        store_two<T>(finish.out, at, left, finish.pairs, value.x, value.y);
      }
    }
  }

  // Where gate and up of neuron i are in a row of Z.
  THRIFTY_DEVICE bool together() const { return phi.gated && finish.interleaved; }
  THRIFTY_DEVICE int width() const { return phi.gated ? 2 * finish.columns : finish.columns; }

  // Two neurons of a row of Z: (g, g') and (u, u').
  struct Neurons {
    Two<A> g, u;
  };
  THRIFTY_DEVICE void store_z(void* z, int r, int i, int left, const Neurons& two) const {
    const int64_t at = int64_t(r) * width();
    if (together()) {
      store_two<T>(z, at + 2 * i, 2, true, two.g.x, two.u.x);
      if (left >= 2) store_two<T>(z, at + 2 * i + 2, 2, true, two.g.y, two.u.y);
      return;
    }
    store_two<T>(z, at + i, left, finish.pairs, two.g.x, two.g.y);
    if (phi.gated) {
      store_two<T>(z, at + finish.columns + i, left, finish.pairs, two.u.x, two.u.y);
    }
  }
  THRIFTY_DEVICE Neurons load_z(int r, int i, int left) const {
    const int64_t at = int64_t(r) * width();
    Neurons two;
    if (together()) {
      const Two<A> low = load_two<T>(finish.z, at + 2 * i, 2, true);
      const Two<A> high = left >= 2 ? load_two<T>(finish.z, at + 2 * i + 2, 2, true) : Two<A>{};
      return {{low.x, high.x}, {low.y, high.y}};
    }
    two.g = load_two<T>(finish.z, at + i, left, finish.pairs);
    if (phi.gated) {
      two.u = load_two<T>(finish.z, at + finish.columns + i, left, finish.pairs);
    }
    return two;
  }

  static THRIFTY_DEVICE A stored(A value) { return to_float(from_float<T>(value)); }

  THRIFTY_DEVICE void up(int row) const {
    const bool gated = phi.gated;
    const int neurons = gated ? kN / 2 : kN, r = rows.m + row;
    for (int c = 2 * lane_index(); c < neurons; c += 2 * kWarpSize) {
      const int i = tile_n * neurons + c, left = finish.columns - i;
      if (left <= 0) break;
      Neurons two;
      if (together()) {
        const Two<A> low = sums(row, 2 * c), high = sums(row, 2 * c + 2);
        two = {{low.x, high.x}, {low.y, high.y}};
      } else {
        two.g = sums(row, c);
        if (gated) two.u = sums(row, neurons + c);
      }
      add_bias(i, left, two);
      if (finish.z != nullptr) {  // the activation is that of the z which backward sees
        store_z(finish.z, r, i, left, two);
        two = {{stored(two.g.x), stored(two.g.y)}, {stored(two.u.x), stored(two.u.y)}};
      }
      if (finish.a != nullptr) {
        store_two<T>(finish.a, int64_t(r) * finish.columns + i, left, finish.pairs,
                     phi.value(two.g.x, two.u.x), phi.value(two.g.y, two.u.y));
      }
    }
  }
  THRIFTY_DEVICE void add_bias(int i, int left, Neurons& two) const {
    if (finish.bias.data == nullptr) return;
    const int step = together() ? 2 : 1, up = together() ? 1 : finish.columns;
    two.g.x += bias(i * step);
    if (left >= 2) two.g.y += bias((i + 1) * step);
    if (!phi.gated) return;
    two.u.x += bias(i * step + up);
    if (left >= 2) two.u.y += bias((i + 1) * step + up);
  }

  // kDotColumns at a time, one step of all lanes, have their own sum: whatever a tile's columns
  // are.
  THRIFTY_DEVICE void up_grad(int row) const {
    static_assert(kDotColumns == 2 * kWarpSize);
    const int r = rows.m + row;
    const A s = scale(r);
    for (int first = tile_n * kN; first < (tile_n + 1) * kN && first < finish.columns;
         first += kDotColumns) {
      A dot = 0;
      const int i = first + 2 * lane_index(), left = finish.columns - i;
      if (left > 0) dot = up_grad_of(row, r, i, left, s);
      if (finish.ds == nullptr) continue;  // all lanes
      dot = warp_sum(dot);
      if (lane_index() == 0) {
        static_cast<A*>(finish.ds)[int64_t(first / kDotColumns) * all_rows + r] = dot;
      }
    }
  }
  THRIFTY_DEVICE A up_grad_of(int row, int r, int i, int left, A s) const {
    const Two<A> da = sums(row, i - tile_n * kN);
    const Neurons z = load_z(r, i, left);
    const PhiSlopes<A> low = phi.slopes(z.g.x, z.u.x), high = phi.slopes(z.g.y, z.u.y);
    if (finish.dz != nullptr) {
      const A x = s * da.x, y = s * da.y;
      const Neurons dz{{x * low.gate, y * high.gate}, {x * low.up, y * high.up}};
      store_z(finish.dz, r, i, left, dz);
    }
    if (finish.a != nullptr) {
      store_two<T>(finish.a, int64_t(r) * finish.columns + i, left, finish.pairs, s * low.value,
                   s * high.value);
    }
    return da.x * low.value + (left >= 2 ? da.y * high.value : 0);
  }
};

}  // namespace thrifty::moe::cuda
