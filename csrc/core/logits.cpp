// Rows of logits: blocks put together. See logits.h.
#include "core/logits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace thrifty {
namespace {

// At least so many tokens to a thread: a block takes 0.3 us, handing out work takes 5.
constexpr int64_t kBlocksPerTask = 32;

void clear_after(uint32_t (&words)[kBlockWords], int64_t from) {
  std::fill(words + from, words + kBlockWords, 0u);
}

// The largest exponent of blocks that have mass.
double highest(const std::vector<BlockMass>& blocks) {
  double exponent = -std::numeric_limits<double>::infinity();
  for (const BlockMass& block : blocks) exponent = std::max(exponent, block.exponent);
  return exponent;
}

// The mass of a block relative to 2^exponent, its own or a larger one; 0 below 2^-1000 of that.
double relative_mass(const BlockMass& block, double exponent) {
  if (!(block.sum == block.sum)) return double(block.sum);  // NaN
  const double apart = block.exponent - exponent;
  if (!(apart > -1000)) return 0;
  const uint64_t bits = uint64_t(int64_t(apart) + 1023) << 52;
  double power;
  std::memcpy(&power, &bits, sizeof power);
  return double(block.sum) * power;
}

constexpr double kLog2 = 0.6931471805599453;

// Four sums side by side: one after the other, each addition waits for the last.
double sum_of(const std::vector<double>& values) {
  double parts[4] = {};
  size_t i = 0;
  for (; i + 4 <= values.size(); i += 4) {
    for (size_t j = 0; j < 4; ++j) parts[j] += values[i + j];
  }
  for (; i < values.size(); ++i) parts[0] += values[i];
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

constexpr int64_t kGroup = 32;  // weights of a block that are added up first

double group_sum(const float* weights, int64_t group) {
  float parts[4] = {};
  for (int64_t i = 0; i < kGroup; ++i) parts[i % 4] += weights[group * kGroup + i];
  return double(parts[0] + parts[1]) + double(parts[2] + parts[3]);
}

}  // namespace

double LogMass::log() const { return sum > 0 ? ref + std::log(sum) : double(kNoLogit); }

double LogMass::log_of(const LogMass& part) const {
  if (!(part.sum > 0)) return double(kNoLogit);
  return std::min(0.0, part.ref - ref + std::log(part.sum / sum));
}

// Chan, Golub and LeVeque (1983): the moments of a union.
void LogitMoments::add(const LogitMoments& other) {
  max = std::max(max, other.max);
  if (other.count == 0) return;
  const double both = count + other.count, apart = other.mean - mean;
  squares += other.squares + apart * apart * (count / both) * other.count;
  mean += apart * (other.count / both);
  count = both;
}

double LogitMoments::deviation() const {
  return count > 0 ? std::sqrt(std::max(0.0, squares / count)) : 0.0;
}

const LogitsKernels& logits_kernels(Dtype dtype) { return logits_table().storage[int(dtype)]; }

LogitsBlock block_of(const LogitsRow& row, int64_t block, uint32_t (&words)[kBlockWords]) {
  const int64_t first = block * kLogitsBlock;
  LogitsBlock part{static_cast<const char*>(row.logits) + first * dtype_size(row.dtype),
                   std::min(kLogitsBlock, row.vocab - first), nullptr, row.at_least,
                   row.inv_temperature};
  if (row.mask != nullptr) {
    const int64_t first_word = block * kBlockWords;
    const int64_t count = std::clamp<int64_t>(row.mask_words - first_word, 0, kBlockWords);
    if (count > 0) std::memcpy(words, row.mask + first_word, size_t(count) * sizeof(uint32_t));
    clear_after(words, count);
    part.mask = words;
  }
  return part;
}

void block_maxima(const LogitsRow& row, float* maxima) {
  const LogitsKernels& kernels = logits_kernels(row.dtype);
  uint32_t words[kBlockWords];
  for (int64_t b = 0; b < row.blocks(); ++b) maxima[b] = kernels.max(block_of(row, b, words));
}

LogitMoments moments(const LogitsRow& row) {
  const LogitsKernels& kernels = logits_kernels(row.dtype);
  uint32_t words[kBlockWords];
  LogitMoments all;
  for (int64_t b = 0; b < row.blocks(); ++b) all.add(kernels.moments(block_of(row, b, words)));
  return all;
}

// Blocks by falling maximum, so that the first few set a bound that later ones hardly pass; a block
// whose maximum is below the bound is not read.
void top_k(const LogitsRow& row, const float* maxima, int64_t k, std::vector<Ranked>& out) {
  out.clear();
  if (k <= 0) return;
  const LogitsKernels& kernels = logits_kernels(row.dtype);
  std::vector<Ranked> blocks(static_cast<size_t>(row.blocks()));
  for (size_t b = 0; b < blocks.size(); ++b) blocks[b] = {maxima[b], int32_t(b)};
  std::sort(blocks.begin(), blocks.end());
  float bound = std::numeric_limits<float>::lowest();  // not -inf
  // Each of the k largest maxima is a token that is at least as large as the last of them.
  if (size_t(k) <= blocks.size()) bound = std::max(bound, blocks[size_t(k) - 1].logit);
  uint32_t words[kBlockWords];
  const size_t full = 2 * size_t(k) + size_t(kLogitsBlock);
  size_t count = 0;
  const auto keep_best = [&] {
    if (count <= size_t(k)) return;
    std::nth_element(out.begin(), out.begin() + (k - 1), out.begin() + int64_t(count));
    count = size_t(k);
    bound = std::max(bound, out[count - 1].logit);
  };
  for (const Ranked& best : blocks) {
    if (!(best.logit >= bound)) break;
    if (count > full) keep_best();
    out.resize(count + size_t(kLogitsBlock));
    const LogitsBlock block = block_of(row, best.id, words);
    count +=
        size_t(kernels.collect(block, bound, int32_t(best.id * kLogitsBlock), out.data() + count));
  }
  keep_best();
  out.resize(count);
  std::sort(out.begin(), out.end());
}

void RowMass::measure(const LogitsRow& row, ParallelFor parallel) {
  row_ = row;
  open_.clear();
  const int64_t blocks = row.blocks();
  all_blocks_.resize(size_t(blocks));
  kept_blocks_.resize(size_t(blocks));
  const LogitsKernels& kernels = logits_kernels(row.dtype);
  const auto masses = [&](const LogitsBlock& some, int64_t first) {
    kernels.masses(some, &all_blocks_[size_t(first)], &kept_blocks_[size_t(first)]);
  };
  // Blocks whose words the mask holds are read where they are; the others get words of their own.
  const int64_t covered = row.mask == nullptr ? blocks : row.mask_words / kBlockWords;
  const auto some = [&](int64_t begin, int64_t end) {
    const int64_t middle = std::clamp(covered, begin, end);
    uint32_t words[kBlockWords];
    if (begin < middle) {
      LogitsBlock run = block_of(row, begin, words);
      run.n = std::min(middle * kLogitsBlock, row.vocab) - begin * kLogitsBlock;
      if (row.mask != nullptr) run.mask = row.mask + begin * kBlockWords;
      masses(run, begin);
    }
    for (int64_t b = middle; b < end; ++b) masses(block_of(row, b, words), b);
  };
  const int64_t tasks = blocks / kBlocksPerTask;
  if (parallel == serial || tasks < 2) {
    some(0, blocks);
  } else {
    for_each(parallel, tasks,
             [&](int64_t i) { some(blocks * i / tasks, blocks * (i + 1) / tasks); });
  }
  const double exponent = highest(all_blocks_);
  all_ = {exponent * kLog2, 0};
  for (const BlockMass& block : all_blocks_) all_.sum += relative_mass(block, exponent);
  total();
}

void RowMass::raise(float bound, const float* maxima) {
  row_.at_least = std::max(row_.at_least, bound);
  open_.clear();
  uint32_t words[kBlockWords];
  for (int64_t b = 0; b < row_.blocks(); ++b) {
    kept_blocks_[size_t(b)] = {};
    if (maxima[b] == kNoLogit || maxima[b] < row_.at_least) continue;
    kept_blocks_[size_t(b)] = mass_of(block_of(row_, b, words), maxima[b]);
  }
  total();
}

void RowMass::total() {
  exponent_ = highest(kept_blocks_);
  masses_.resize(kept_blocks_.size());
  for (size_t b = 0; b < masses_.size(); ++b) {
    masses_[b] = relative_mass(kept_blocks_[b], exponent_);
  }
  sum_ = sum_of(masses_);
}

BlockMass RowMass::mass_of(const LogitsBlock& block, float top) const {
  if (top == kNoLogit) return {};
  return {top, logits_kernels(row_.dtype).sum(block, top, nullptr),
          exponent_of(top, log2_scale(row_.inv_temperature))};
}

LogMass RowMass::kept() const { return {exponent_ * kLog2, sum_}; }

namespace {

// The first whose running sum passes `target`; where rounding lets none, the last that has a share.
// Entries of 0 are never it. -1 when all are 0.
template <class T>
int64_t pick(const T* shares, int64_t n, double target) {
  double running = 0;
  int64_t last = -1;
  for (int64_t i = 0; i < n; ++i) {
    if (!(shares[i] > 0)) continue;
    running += double(shares[i]);
    last = i;
    if (running > target) break;
  }
  return last;
}

float logit_at(const LogitsRow& row, int64_t id) {
  const LogitsBlock one{static_cast<const char*>(row.logits) + id * dtype_size(row.dtype), 1,
                        nullptr, kNoLogit, 1};
  return logits_kernels(row.dtype).max(one);
}

}  // namespace

RowMass::Open& RowMass::open(int64_t block) const {
  for (Open& known : open_) {
    if (known.block == block) return known;
  }
  Open& fresh = open_.emplace_back();
  fresh.block = block;
  if (block_of(row_, block, fresh.words).mask == nullptr) {
    std::fill(fresh.words, fresh.words + kBlockWords, ~0u);
  }
  weigh(fresh);
  return fresh;
}

void RowMass::weigh(Open& open) const {
  uint32_t words[kBlockWords];
  LogitsBlock left = block_of(row_, open.block, words);
  left.mask = open.words;
  logits_kernels(row_.dtype).weights(left, kept_blocks_[size_t(open.block)].top, open.weights);
  for (int64_t g = 0; g < kGroups; ++g) open.groups[g] = group_sum(open.weights, g);
}

int64_t RowMass::draw(double u, double v, double* log_weight) const {
  const int64_t chosen = pick(masses_.data(), int64_t(masses_.size()), u * sum_);
  if (chosen < 0) return -1;
  const Open& block = open(chosen);
  double target = v * std::accumulate(block.groups, block.groups + kGroups, 0.0);
  const int64_t group = std::max<int64_t>(0, pick(block.groups, kGroups, target));
  for (int64_t g = 0; g < group; ++g) target -= block.groups[g];
  const int64_t first = group * kGroup;
  const int64_t id = chosen * kLogitsBlock + first + pick(block.weights + first, kGroup, target);
  if (log_weight != nullptr) {
    *log_weight = double(logit_at(row_, id)) * log_scale(row_.inv_temperature);
  }
  return id;
}

// The product of two floats is exact in double, and so is the difference from an integer.
double RowMass::log_probability(int64_t id) const {
  const double log2 = double(logit_at(row_, id)) * double(log2_scale(row_.inv_temperature));
  return (log2 - exponent_) * kLog2 - std::log(kept().sum);
}

void RowMass::remove(int64_t id) {
  // So far may the mass of a block fall before its weights get a new reference: those below 2^-126
  // of the first one are not seen.
  constexpr float kFaint = 0x1p-60f;
  if (id < 0 || id >= row_.vocab) return;
  const int64_t index = id / kLogitsBlock, place = id % kLogitsBlock;
  Open& block = open(index);
  block.words[place / 32] &= ~(1u << (place % 32));
  block.weights[place] = 0;
  block.groups[place / kGroup] = group_sum(block.weights, place / kGroup);
  BlockMass& kept = kept_blocks_[size_t(index)];
  kept.sum = float(std::accumulate(block.groups, block.groups + kGroups, 0.0));
  if (kept.sum < kFaint) {
    uint32_t words[kBlockWords];
    LogitsBlock left = block_of(row_, index, words);
    left.mask = block.words;
    kept = mass_of(left, logits_kernels(row_.dtype).max(left));
    weigh(block);
    // Or what is left could underflow beside what is gone.
    if (highest(kept_blocks_) < exponent_ - 100) return total();
  }
  masses_[size_t(index)] = relative_mass(kept, exponent_);
  sum_ = sum_of(masses_);
}

}  // namespace thrifty
