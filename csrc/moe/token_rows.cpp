#include "moe/token_rows.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <vector>

#include "core/bucket_sort.h"
#include "core/scratch.h"
#include "moe/elements.h"

namespace thrifty::moe {
namespace {

// Unsigned numbers in the order of the scores: 0 and -0 are one, NaN is below all.
template <class Key, class Real>
Key key_of(Real score) {
  if (score != score) return 0;
  score += Real(0);  // -0 to 0
  Key bits;
  std::memcpy(&bits, &score, sizeof bits);
  constexpr Key kSign = Key(1) << (8 * sizeof(Key) - 1);
  return bits & kSign ? ~bits : bits | kSign;
}

// The positions of the k largest in rising order; of equal ones the first.
template <class Key, class Real>
void largest(const Real* scores, int64_t n, int64_t k, int64_t* index) {
  std::vector<Key> keys(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) keys[size_t(i)] = key_of<Key>(scores[i]);
  std::vector<Key> ranked = keys;
  std::nth_element(ranked.begin(), ranked.begin() + (k - 1), ranked.end(), std::greater<>());
  const Key last = ranked[size_t(k - 1)];
  int64_t equal = k - std::count_if(keys.begin(), keys.end(), [&](Key key) { return key > last; });
  for (int64_t i = 0; i < n; ++i) {
    if (keys[size_t(i)] > last || (keys[size_t(i)] == last && equal-- > 0)) *index++ = i;
  }
}

// Small calls are quicker on the thread that makes them.
ParallelFor threads_for(int64_t bytes, ParallelFor parallel) {
  return bytes > (1 << 18) ? parallel : serial;
}

int64_t index_at(const Array& index, int64_t i) {
  return index.dtype == Dtype::kInt32 ? static_cast<const int32_t*>(index.data)[i]
                                      : static_cast<const int64_t*>(index.data)[i];
}

// The weights as sums; null where there are none.
class Weights {
 public:
  explicit Weights(const Array& weights)
      : size_(weights ? dtype_size(sum_dtype(weights.dtype)) : 0),
        sums_(weights ? Scratch(weights.numel() * size_) : Scratch()) {
    if (weights) to_wide(weights.numel(), weights, 0, sums_.data());
  }
  const void* at(int64_t i) const { return size_ == 0 ? nullptr : sums_.data() + i * size_; }

 private:
  int64_t size_;
  Scratch sums_;
};

const std::byte* bytes(const Array& array) { return static_cast<const std::byte*>(array.data); }

}  // namespace

void token_topk(const TokenTopk& topk, void* weights, int64_t* index, ParallelFor parallel) {
  const auto [scores, batch, n, k] = topk;
  if (k == 0) return;
  const int64_t size = dtype_size(scores.dtype);
  const bool wide = scores.dtype == Dtype::kFloat64;
  const auto* from = bytes(scores);
  auto* to = static_cast<std::byte*>(weights);
  for_each(parallel, batch, [&, n = n, k = k, &scores = topk.scores](int64_t b) {
    Scratch row(n * (wide ? 8 : 4));
    to_wide(n, scores, b * n, row.data());
    int64_t* chosen = index + b * k;
    wide ? largest<uint64_t>(row.as<double>(), n, k, chosen)
         : largest<uint32_t>(row.as<float>(), n, k, chosen);
    for (int64_t j = 0; j < k; ++j) {
      std::memcpy(to + (b * k + j) * size, from + (b * n + chosen[j]) * size, size_t(size));
    }
  });
}

void gather_rows(const TokenRowsOp& op, void* out, ParallelFor parallel) {
  const TileKernels& tiles = tile_kernels(op.x.dtype);
  const int64_t row = op.width * dtype_size(op.x.dtype), rows = op.batch * op.chosen;
  const Weights weights(op.weights);
  for_ranges(threads_for(rows * row, parallel), rows, [&](int64_t begin, int64_t end) {
    Scratch sums(op.width * dtype_size(sum_dtype(op.x.dtype)));
    for (int64_t i = begin; i < end; ++i) {
      std::byte* to = static_cast<std::byte*>(out) + i * row;
      const int64_t at = index_at(op.index, i);
      if (at < 0 || at >= op.length) {
        std::memset(to, 0, size_t(row));
        continue;
      }
      const std::byte* from = bytes(op.x) + (i / op.chosen * op.length + at) * row;
      if (!op.weights) {
        std::memcpy(to, from, size_t(row));
        continue;
      }
      tiles.widen(op.width, from, sums.data());
      tiles.scale_row(op.width, sums.data(), nullptr, weights.at(i), sums.data());
      tiles.narrow(op.width, sums.data(), to);
    }
  });
}

void scatter_add_rows(const TokenRowsOp& op, void* out, ParallelFor parallel) {
  const int64_t rows = op.batch * op.length;
  if (rows == 0) return;
  const TileKernels& tiles = tile_kernels(op.x.dtype);
  const int64_t row = op.width * dtype_size(op.x.dtype);
  parallel = threads_for(rows * row, parallel);
  // What each output row receives: order[offsets[s], offsets[s + 1]) of its sequence.
  std::vector<int32_t> order(size_t(op.batch * op.chosen));
  std::vector<int32_t> offsets(size_t(op.batch * (op.length + 1)));
  bucket_sort(op.index, op.batch, op.chosen, op.length, order.data(), offsets.data(), nullptr,
              parallel);
  const Weights weights(op.weights);
  for_ranges(parallel, rows, [&](int64_t begin, int64_t end) {
    const int64_t size = dtype_size(sum_dtype(op.x.dtype));
    Scratch sum(op.width * size), scaled(op.width * size);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t b = r / op.length, s = r % op.length;
      const int32_t* from = offsets.data() + b * (op.length + 1) + s;
      std::byte* to = static_cast<std::byte*>(out) + r * row;
      if (from[0] == from[1]) {
        std::memcpy(to, bytes(op.x) + r * row, size_t(row));
        continue;
      }
      tiles.widen(op.width, bytes(op.x) + r * row, sum.data());
      for (int32_t o = from[0]; o < from[1]; ++o) {
        const int64_t j = b * op.chosen + order[size_t(b * op.chosen + o)];
        const std::byte* src = bytes(op.src) + j * row;
        if (!op.weights) {
          tiles.add_stored(op.width, src, sum.data());
          continue;
        }
        tiles.widen(op.width, src, scaled.data());
        tiles.scale_row(op.width, scaled.data(), nullptr, weights.at(j), scaled.data());
        tiles.add(op.width, scaled.data(), sum.data());
      }
      tiles.narrow(op.width, sum.data(), to);
    }
  });
}

}  // namespace thrifty::moe
