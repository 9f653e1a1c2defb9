#include "attention/centroids.h"

#include <cmath>
#include <limits>
#include <numeric>

#include "attention/bucket.h"
#include "core/philox.h"

namespace thrifty::attention {
namespace {

constexpr int64_t kCandidates = 8;  // keys that the first centroids are chosen among, for each
constexpr int kLloydSteps = 2;
constexpr int64_t kLloydKeys = 16;  // of the sample, for each centroid
constexpr float kInfinity = std::numeric_limits<float>::infinity();

void make_unit(float* x, int64_t d) {
  double norm = 0;
  for (int64_t i = 0; i < d; ++i) norm += double(x[i]) * x[i];
  const float scale = norm > 0 ? float(1 / std::sqrt(norm)) : 0;
  for (int64_t i = 0; i < d; ++i) x[i] *= scale;
}

// A centred row as floats.
void centred(Dtype dtype, Rows k, int64_t row, int64_t d, const float* mean, float* out) {
  to_float(dtype, d, k.from(row, dtype_size(dtype)).data, out);
  for (int64_t i = 0; mean != nullptr && i < d; ++i) out[i] -= mean[i];
}

// `count` of the candidates [candidates, d], far from each other: the first, then always the one
// whose greatest product with those before is the least (Gonzalez, 1985).
std::vector<float> spread(const std::vector<float>& candidates, int64_t count, int64_t d) {
  const int64_t all = int64_t(candidates.size()) / d, blocks = ceil_div(all, kFarthestColumns);
  std::vector<float> columns(size_t(blocks * d * kFarthestColumns), 0.0f);
  for (int64_t t = 0; t < all; ++t) {
    float* column =
        columns.data() + (t / kFarthestColumns * d * kFarthestColumns) + t % kFarthestColumns;
    for (int64_t c = 0; c < d; ++c) column[c * kFarthestColumns] = candidates[size_t(t * d + c)];
  }
  // Infinite: taken, or not there.
  std::vector<float> nearness(size_t(blocks * kFarthestColumns), kInfinity), result;
  std::fill(nearness.begin(), nearness.begin() + all, -kInfinity);
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float* row = candidates.data() + last * d;
    result.insert(result.end(), row, row + d);
    nearness[size_t(last)] = kInfinity;
    last = attention_tiles().farthest(d, blocks, columns.data(), row, nearness.data());
  }
  return result;
}

// From the first always on to the one most similar, the first of equals.
std::vector<float> chained(const std::vector<float>& centroids, int64_t count, int64_t d) {
  const Directions directions(centroids.data(), count, d);
  const int64_t width = directions.width();
  std::vector<float> similar(size_t(round_up(count, kTileRows) * width));
  std::vector<float> padded(centroids);
  padded.resize(size_t(round_up(count, kTileRows) * d));  // whole blocks are read
  directions.products(padded.data(), count, similar.data(), width);
  std::vector<float> hidden(size_t(width), 0.0f), result;
  int32_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    result.insert(result.end(), centroids.begin() + last * d, centroids.begin() + (last + 1) * d);
    hidden[size_t(last)] = kInfinity;
    attention_tiles().argmax(1, count, similar.data() + last * width, width, hidden.data(), &last);
  }
  return result;
}

}  // namespace

uint32_t plan_word(const PlanArgs& args, Stream stream, uint32_t slot, uint32_t number) {
  return philox(args.seed, {{slot + (uint32_t(stream) << 28), number, uint32_t(args.offset),
                             uint32_t(args.offset >> 32)}})
      .word[0];
}

std::vector<float> mean_of(Dtype dtype, Rows x, int64_t rows, int64_t d) {
  constexpr int64_t kBlock = 256;
  std::vector<double> total(size_t(d), 0.0);
  std::vector<float> sum(static_cast<size_t>(d)), row(static_cast<size_t>(d));
  for (int64_t at = 0; at < rows; at += kBlock) {
    std::fill(sum.begin(), sum.end(), 0.0f);
    for (int64_t i = at; i < std::min(rows, at + kBlock); ++i) {
      centred(dtype, x, i, d, nullptr, row.data());
      for (int64_t c = 0; c < d; ++c) sum[size_t(c)] += row[size_t(c)];
    }
    for (int64_t c = 0; c < d; ++c) total[size_t(c)] += double(sum[size_t(c)]);
  }
  for (int64_t c = 0; c < d; ++c) {
    sum[size_t(c)] = float(total[size_t(c)] / double(std::max<int64_t>(rows, 1)));
  }
  return sum;
}

std::vector<float> make_centroids(Dtype dtype, Rows k, int64_t keys, int64_t d, int64_t buckets,
                                  const float* mean, const PlanArgs& args, uint32_t number) {
  const int64_t drawn = std::min(keys, kCandidates * buckets);
  std::vector<float> candidates(size_t(drawn * d));
  for (int64_t t = 0; t < drawn; ++t) {
    const int64_t low = t * keys / drawn, high = (t + 1) * keys / drawn;
    const uint64_t word = plan_word(args, Stream::kCentroids, uint32_t(t), number);
    const int64_t row = low + int64_t(word * uint64_t(high - low) >> 32);
    centred(dtype, k, row, d, mean, candidates.data() + t * d);
    make_unit(candidates.data() + t * d, d);
  }
  std::vector<float> centroids = spread(candidates, buckets, d);
  const int64_t count = std::min(keys, kLloydKeys * buckets);
  std::vector<float> sample(size_t(count * d)), sums;
  for (int64_t t = 0; t < count; ++t) {
    centred(dtype, k, t * keys / count, d, mean, sample.data() + t * d);
    make_unit(sample.data() + t * d, d);
  }
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int step = 0; step < kLloydSteps; ++step) {
    const Rows rows{reinterpret_cast<std::byte*>(sample.data()), d};
    Directions(centroids.data(), buckets, d)
        .nearest(Dtype::kFloat32, rows, count, nullptr, ids.data());
    sums.assign(size_t(buckets * d), 0.0f);
    for (int64_t t = 0; t < count; ++t) {
      float* sum = sums.data() + ids[size_t(t)] * d;
      for (int64_t i = 0; i < d; ++i) sum[i] += sample[size_t(t * d + i)];
    }
    for (int64_t c = 0; c < buckets; ++c) {
      float* sum = sums.data() + c * d;
      make_unit(sum, d);
      if (std::any_of(sum, sum + d, [](float x) { return x != 0; })) {
        std::copy(sum, sum + d, centroids.data() + c * d);
      }
    }
  }
  return chained(centroids, buckets, d);
}

std::vector<int32_t> kept_keys(Dtype dtype, Rows k, int64_t keys, int64_t d, const float* mean,
                               const float* probe, int64_t keep) {
  keep = std::min(keep, keys);
  std::vector<int32_t> best(size_t(probe == nullptr ? keep : keys));
  std::iota(best.begin(), best.end(), 0);
  if (probe == nullptr || keep == 0) {
    best.resize(size_t(keep));
    return best;
  }
  const TileKernels& tile = attention_tiles().storage[int(Dtype::kFloat32)];
  std::vector<float> scores(static_cast<size_t>(keys)), row(static_cast<size_t>(d));
  for (int64_t i = 0; i < keys; ++i) {
    centred(dtype, k, i, d, mean, row.data());
    const auto score = float(tile.dot(d, row.data(), probe));
    scores[size_t(i)] = score == score ? score : -kInfinity;
  }
  const auto before = [&](int32_t a, int32_t b) {
    const float x = scores[size_t(a)], y = scores[size_t(b)];
    return x > y || (x == y && a < b);
  };
  std::nth_element(best.begin(), best.begin() + (keep - 1), best.end(), before);
  best.resize(size_t(keep));
  std::sort(best.begin(), best.end());
  return best;
}

}  // namespace thrifty::attention
