// One pass over a row of logits, which sampling, verification and table updates share: masses of
// blocks, exact draws, the largest k, moments.
//
//   w_t = exp(l_t / T) relative to its block      mass of a block = sum of its w
//
// A draw is two-level: a block by its mass, then a token of it by the weights, which are computed
// again, so that no sum is ever a difference. Each block is relative to a power of two near its own
// largest weight, so masses of any ratio are exact to float32, log masses of -1000 included, and
// putting blocks together rounds nothing. Results depend on the row alone, not on threads or on
// other rows.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "core/dispatch.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "core/philox.h"

namespace thrifty {

constexpr int64_t kLogitsBlock = 1024;
constexpr int kBlockWords = int(kLogitsBlock / 32);
constexpr float kNoLogit = -std::numeric_limits<float>::infinity();

// A row, and which tokens of it are kept: those that the mask allows and whose logit is at least
// `at_least`. Token t is allowed when bit t % 32 of word t / 32 is set; beyond the mask it is not.
struct LogitsRow {
  const void* logits = nullptr;  // [vocab], contiguous
  Dtype dtype = Dtype::kFloat32;
  int64_t vocab = 0;
  float inv_temperature = 1;       // 1 / T, positive and finite
  const uint32_t* mask = nullptr;  // [mask_words]; null: all are allowed
  int64_t mask_words = 0;
  float at_least = kNoLogit;

  int64_t blocks() const { return (vocab + kLogitsBlock - 1) / kLogitsBlock; }
  bool keeps_all() const { return mask == nullptr && at_least == kNoLogit; }
};

// Weights are powers of two: exp(l / T) = 2^(l scale), with scale in float32. It rounds 1 / T by
// 6e-8, the one place where the law is not that of the caller's T; log_scale is the T that is
// meant.
static inline float log2_scale(float inv_temperature) { return inv_temperature * 1.44269504f; }
static inline double log_scale(float inv_temperature) {
  return double(log2_scale(inv_temperature)) * 0.6931471805599453;
}
// What the weights of a block with largest logit `top` are relative to: 2 to this.
static inline double exponent_of(float top, float log2_scale) {
  return __builtin_floor(double(top) * double(log2_scale));
}

// Mass of some tokens of a block: sum * 2^exponent. Of none, or of tokens with -inf: {-inf, 0}. A
// NaN or +inf among the tokens makes `sum` NaN.
struct BlockMass {
  float top = kNoLogit, sum = 0;  // exponent = exponent_of(top)
  double exponent = -std::numeric_limits<double>::infinity();
};

// The same over a row: sum * exp(ref).
struct LogMass {
  double ref = kNoLogit, sum = 0;
  double log() const;                        // -inf when there is no mass
  double log_of(const LogMass& part) const;  // log of a part of this over this, at most 0
};

// Count, mean and sum of squared distances from the mean of the finite logits that are kept.
struct LogitMoments {
  double count = 0, mean = 0, squares = 0;
  float max = kNoLogit;
  void add(const LogitMoments& other);
  double deviation() const;  // population standard deviation; 0 of no logits
};

struct Ranked {
  float logit;
  int32_t id;
  // Best first: larger logits, then smaller ids.
  bool operator<(const Ranked& other) const {
    return logit > other.logit || (logit == other.logit && id < other.id);
  }
};

// --- per instruction set: one block -------------------------------------------------------------

// Up to kLogitsBlock logits with their own part of the mask. `masses` takes any number, which are
// blocks that follow each other.
struct LogitsBlock {
  const void* logits;
  int64_t n;
  const uint32_t* mask;  // [kBlockWords] for each block, or null
  float at_least, inv_temperature;
};

struct LogitsKernels {
  // Of all tokens and of those that are kept, of each block, in one pass.
  void (*masses)(const LogitsBlock& blocks, BlockMass* all, BlockMass* kept);
  // The largest kept logit, -inf if none; a NaN is passed over.
  float (*max)(const LogitsBlock& block);
  // Kept tokens, relative to exponent_of(top), with no kept logit above top: the sum of w = 2^y and
  // of w y (may be null).
  float (*sum)(const LogitsBlock& block, float top, float* weighted);
  // weights[kLogitsBlock]: w, 0 where not kept.
  void (*weights)(const LogitsBlock& block, float top, float* weights);
  // Kept tokens whose logit is at least `bound` (> -inf), in order of ids: into out[n].
  int (*collect)(const LogitsBlock& block, float bound, int32_t first_id, Ranked* out);
  LogitMoments (*moments)(const LogitsBlock& block);
};

struct LogitsTable {
  LogitsKernels storage[3];  // by Dtype: float32, bfloat16, float16
};

constexpr bool is_logits(Dtype dtype) { return dtype <= Dtype::kFloat16; }

// --- rows ---------------------------------------------------------------------------------------

// A block of a row; `words` receives its part of the mask.
LogitsBlock block_of(const LogitsRow& row, int64_t block, uint32_t (&words)[kBlockWords]);

const LogitsKernels& logits_kernels(Dtype dtype);

// The largest kept logit of each block, into maxima[blocks].
void block_maxima(const LogitsRow& row, float* maxima);

// The k largest kept logits that are not -inf, best first; fewer where there are fewer. `maxima` as
// from block_maxima. NaN is passed over.
void top_k(const LogitsRow& row, const float* maxima, int64_t k, std::vector<Ranked>& out);

LogitMoments moments(const LogitsRow& row);

// Masses of the blocks of one row: measured once, then drawn from, and reduced token by token.
class RowMass {
 public:
  // One read of the row. With many tokens and more than one thread its blocks are shared out.
  void measure(const LogitsRow& row, ParallelFor parallel = serial);

  // Keeps fewer tokens of the measured row: those with a logit of at least `bound`, which is what
  // row().at_least becomes. `maxima` as from block_maxima. What was removed comes back.
  void raise(float bound, const float* maxima);

  const LogitsRow& row() const { return row_; }
  bool valid() const { return all_.sum == all_.sum; }  // no NaN and no +inf in the row
  const LogMass& all() const { return all_; }          // every token of the row
  LogMass kept() const;                                // what draw() draws from

  // A kept token by its probability; u and v in [0, 1). -1 when nothing is left. `log_weight`
  // receives l / T of it, to compare with kept().log().
  int64_t draw(double u, double v, double* log_weight = nullptr) const;

  // log p(id) among the kept tokens, of which it is one, to the last digits at any temperature.
  double log_probability(int64_t id) const;

  // Keeps `id` no longer; the mass of its block is summed anew over what is left there. A token
  // that is not kept, or lies outside the row, may be given, too.
  void remove(int64_t id);

 private:
  static constexpr int kGroups = kBlockWords;

  // A block that was drawn from or reduced: its weights are computed once.
  struct Open {
    int64_t block;
    uint32_t words[kBlockWords];  // the tokens that are left
    float weights[kLogitsBlock];  // relative to the block's exponent
    double groups[kGroups];       // sums of 32 of them
  };

  Open& open(int64_t block) const;
  void weigh(Open& open) const;  // weights and groups
  BlockMass mass_of(const LogitsBlock& block, float top) const;
  void total();  // masses_, exponent_ and sum_ from kept_blocks_

  LogitsRow row_;
  LogMass all_;
  double exponent_ = 0;
  std::vector<BlockMass> all_blocks_, kept_blocks_;
  std::vector<double> masses_;  // of kept_blocks_, relative to 2^exponent_
  double sum_ = 0;              // of masses_
  mutable std::vector<Open> open_;
};

// --- randomness ---------------------------------------------------------------------------------

// Streams of Philox under the key `seed`: counter = (index, stream, offset's low half, high half).
// The caller counts the offset up once per token position; a row's place in the batch is no part.
enum class Stream : uint32_t { kNoise = 0, kDraws = 1, kCoins = 2, kResampling = 3 };

struct Uniforms {
  double u, v;  // 53 bits each, in [0, 1)
};

THRIFTY_ANY_SIDE inline double uniform53(uint32_t high, uint32_t low) {
  return (double(high >> 5) * 67108864.0 + double(low >> 6)) * 0x1p-53;
}

THRIFTY_ANY_SIDE inline Uniforms uniforms(int64_t seed, int64_t offset, Stream stream,
                                          uint32_t index) {
  const Philox4 words =
      philox(uint64_t(seed),
             {{index, uint32_t(stream), uint32_t(offset), uint32_t(uint64_t(offset) >> 32)}});
  return {uniform53(words.word[0], words.word[1]), uniform53(words.word[2], words.word[3])};
}

}  // namespace thrifty

THRIFTY_ISA_TABLE(thrifty::LogitsTable, logits_table)
