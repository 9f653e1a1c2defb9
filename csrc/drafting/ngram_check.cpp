#include "drafting/ngram_check.h"

#include "core/error.h"

namespace thrifty::drafting {
namespace {

void check_id(const std::string& op, const char* name, const NgramLimits& limits, int32_t id) {
  const int64_t vocab = limits.vocab_size;
  if (vocab > 0) {
    THRIFTY_CHECK(id >= 0 && id < vocab, op, ": ", name, ": expected ids from 0 to ", vocab - 1,
                  ", got ", id);
  } else {
    THRIFTY_CHECK(id >= 0, op, ": ", name, ": expected ids >= 0, got ", id);
  }
}

void check_follower_row(const NgramLimits& limits, const int32_t* ids, const float* probs,
                        int64_t width) {
  // Room for sums of probabilities that were rounded to 16 bits.
  constexpr double kMaxSum = 1.01;
  double sum = 0;
  bool padding = false;
  for (int64_t i = 0; i < width; ++i) {
    if (ids[i] < 0 || probs[i] == 0) {
      THRIFTY_CHECK(ids[i] >= -1 && (ids[i] >= 0 || probs[i] == 0),
                    "update: ids: expected ids >= 0, or -1 with probability 0, got ", ids[i],
                    " with ", probs[i]);
      padding = true;
      continue;
    }
    check_id("update", "ids", limits, ids[i]);
    THRIFTY_CHECK(!padding, "update: probs: expected padding at the end only, got ", probs[i],
                  " behind it");
    THRIFTY_CHECK(probs[i] > 0 && (i == 0 || probs[i] <= probs[i - 1]),
                  "update: probs: expected positive numbers in descending order, got ", probs[i]);
    for (int64_t j = 0; j < i; ++j) {
      THRIFTY_CHECK(ids[i] != ids[j], "update: ids: expected distinct ids, got ", ids[i], " twice");
    }
    sum += probs[i];
  }
  THRIFTY_CHECK(sum <= kMaxSum, "update: probs: expected a sum of at most 1, got ", sum);
}

}  // namespace

Contexts check_contexts(const std::string& op, const NgramLimits& limits, const Array& tails,
                        const Array& lens, int shortest) {
  THRIFTY_CHECK(tails.dtype == Dtype::kInt32 && tails.ndim == 2, op,
                ": tails: expected int32 (N, L), got ", dtype_name(tails.dtype), " ",
                shape_text(tails));
  const int64_t rows = tails.shape[0], width = tails.shape[1];
  THRIFTY_CHECK(width <= limits.n_max, op, ": tails: expected at most n_max = ", limits.n_max,
                " tokens, got ", width);
  Contexts contexts{.tails = static_cast<const int32_t*>(tails.data),
                    .rows = rows,
                    .stride = width,
                    .first_len = width};
  if (lens) {
    THRIFTY_CHECK(lens.dtype == Dtype::kInt32 && lens.ndim == 1 && lens.shape[0] == rows, op,
                  ": lens: expected int32 (", rows, ",), got ", dtype_name(lens.dtype), " ",
                  shape_text(lens));
    contexts.lens = static_cast<const int32_t*>(lens.data);
  }
  for (int64_t i = 0; i < rows && !limits.on_device; ++i) {
    const int64_t len = contexts.lens != nullptr ? contexts.lens[i] : width;
    THRIFTY_CHECK(len >= shortest && len <= width, op, ": lens: expected numbers from ", shortest,
                  " to ", width, ", got ", len);
    const int32_t* end = contexts.end(i);
    for (const int32_t* id = end - len; id < end; ++id) check_id(op, "tails", limits, *id);
  }
  return contexts;
}

Followers check_followers(const NgramLimits& limits, const Array& ids, const Array& probs,
                          int64_t rows) {
  constexpr int64_t kWidest = 1024;  // distinctness is checked pair by pair
  THRIFTY_CHECK(ids.dtype == Dtype::kInt32 && ids.ndim == 2 && ids.shape[0] == rows &&
                    ids.shape[1] <= kWidest,
                "update: ids: expected int32 (", rows, ", K), got ", dtype_name(ids.dtype), " ",
                shape_text(ids));
  THRIFTY_CHECK(probs.dtype == Dtype::kFloat32 && probs.ndim == 2 && probs.shape[0] == rows &&
                    probs.shape[1] == ids.shape[1],
                "update: probs: expected float32 ", shape_text(ids), ", got ",
                dtype_name(probs.dtype), " ", shape_text(probs));
  const Followers followers{.ids = static_cast<const int32_t*>(ids.data),
                            .probs = static_cast<const float*>(probs.data),
                            .width = ids.shape[1]};
  for (int64_t i = 0; i < rows && !limits.on_device; ++i) {
    check_follower_row(limits, followers.ids + i * followers.width,
                       followers.probs + i * followers.width, followers.width);
  }
  return followers;
}

Contexts check_tokens(const NgramTable& table, const Array& tokens, int64_t start) {
  THRIFTY_CHECK(tokens.dtype == Dtype::kInt32 && tokens.ndim == 1,
                "observe_tokens: tokens: expected int32 (L,), got ", dtype_name(tokens.dtype), " ",
                shape_text(tokens));
  THRIFTY_CHECK(start >= 1, "observe_tokens: start: expected a number >= 1, got ", start);
  const auto* ids = static_cast<const int32_t*>(tokens.data);
  const int64_t length = tokens.shape[0];
  for (int64_t i = std::max<int64_t>(0, start - table.n_max()); i < length; ++i) {
    check_id("observe_tokens", "tokens", table, ids[i]);
  }
  if (start >= length) return {};
  return {.tails = ids + start - 1,
          .rows = length - start,
          .stride = 1,
          .first_len = start,
          .len_step = 1};
}

void check_same_kind(const std::string& op, const NgramTable& table, const NgramTable& other) {
  const NgramHeader &a = table.header(), &b = other.header();
  const auto expect = [&](const char* name, int64_t wanted, int64_t got) {
    THRIFTY_CHECK(wanted == got, op, ": ", name, ": expected that of this table, ", wanted,
                  ", got ", got);
  };
  expect("k", a.k, b.k);
  expect("n_min", a.n_min, b.n_min);
  expect("n_max", a.n_max, b.n_max);
  expect("vocab_size", a.vocab_size, b.vocab_size);
  if (op != "merge") return;
  expect("seed", a.seed, b.seed);
  THRIFTY_CHECK(&table != &other, "merge: other: expected another table, got this one");
}

}  // namespace thrifty::drafting
