// See bitmask.h.
#include "sampling/bitmask.h"

#include <algorithm>

#include "core/error.h"
#include "core/logits.h"

namespace thrifty::sampling {
namespace {

const std::string kOp = "apply_token_bitmask_";

const int32_t* check_rows(const char* name, const Array& rows, int64_t below, bool on_device) {
  THRIFTY_CHECK(rows.dtype == Dtype::kInt32 && rows.ndim == 1, kOp, ": ", name,
                ": expected int32 of one dimension, got ", dtype_name(rows.dtype), " ",
                shape_text(rows));
  const auto* values = static_cast<const int32_t*>(rows.data);
  for (int64_t i = 0; i < rows.numel() && !on_device; ++i) {
    THRIFTY_CHECK(values[i] >= 0 && values[i] < below, kOp, ": ", name,
                  ": expected rows from 0 to ", below - 1, ", got ", values[i]);
  }
  return values;
}

void check_pairs(const BitmaskArgs& args, ApplyBitmask& op) {
  const int64_t rows = args.logits.size(0), masks = args.bitmask.size(0);
  op.all_rows = rows, op.all_masks = masks;
  THRIFTY_CHECK(!args.indices || !args.row_map, kOp,
                ": row_map: expected None beside indices, got ", shape_text(args.row_map));
  if (args.indices) {
    op.rows = op.masks = check_rows("indices", args.indices, std::min(rows, masks), args.on_device);
    op.count = args.indices.numel();
  } else if (args.row_map) {
    THRIFTY_CHECK(args.row_map.numel() == masks, kOp, ": row_map: expected one row for each of ",
                  masks, " masks, got ", shape_text(args.row_map));
    op.rows = check_rows("row_map", args.row_map, rows, args.on_device);
    op.count = masks;
  } else {
    THRIFTY_CHECK(masks == rows, kOp, ": bitmask: expected ", rows,
                  " rows as the logits have, got ", shape_text(args.bitmask));
    op.count = rows;
  }
}

// -inf into logits[n].
void fill(Dtype dtype, int64_t n, void* logits) {
  if (dtype == Dtype::kFloat32) {
    std::fill_n(static_cast<float*>(logits), n, kNoLogit);
  } else {
    std::fill_n(static_cast<uint16_t*>(logits), n,
                uint16_t(dtype == Dtype::kBFloat16 ? 0xff80 : 0xfc00));
  }
}

}  // namespace

ApplyBitmask check_apply_token_bitmask(const BitmaskArgs& args) {
  const Array &logits = args.logits, &mask = args.bitmask;
  THRIFTY_CHECK(is_logits(logits.dtype), kOp,
                ": logits: expected float32, bfloat16 or float16, got ", dtype_name(logits.dtype));
  THRIFTY_CHECK(logits.ndim == 2, kOp, ": logits: expected shape (B, V), got ", shape_text(logits));
  THRIFTY_CHECK(logits.size(0) == 0 || logits.size(1) <= 1 || logits.stride(1) == 1, kOp,
                ": logits: expected contiguous rows, got a stride of ", logits.stride(1));
  THRIFTY_CHECK(mask.dtype == Dtype::kInt32 && mask.ndim == 2, kOp,
                ": bitmask: expected int32 of shape (masks, words), got ", dtype_name(mask.dtype),
                " ", shape_text(mask));
  ApplyBitmask op;
  op.dtype = logits.dtype;
  op.logits = logits.data;
  op.vocab = logits.size(1);
  op.stride = logits.stride(0);
  op.mask = static_cast<const uint32_t*>(mask.data);
  op.mask_words = mask.size(1);
  const bool given = args.vocab_size >= 0;
  THRIFTY_CHECK(!given || args.vocab_size <= op.vocab, kOp, ": vocab_size: expected at most ",
                op.vocab, ", the tokens of the logits, got ", args.vocab_size);
  const int64_t most = (op.vocab + 31) / 32;
  THRIFTY_CHECK(given || op.mask_words <= most, kOp, ": bitmask: expected at most ", most,
                " words for ", op.vocab, " tokens, or vocab_size, got ", shape_text(mask));
  op.covered = std::min(given ? args.vocab_size : op.vocab, op.mask_words * 32);
  check_pairs(args, op);
  return op;
}

void apply_token_bitmask(const ApplyBitmask& op, ParallelFor parallel) {
  // Pieces of a row of 2^15 tokens: a whole multiple of the words, and 20 us of work at most.
  constexpr int64_t kPiece = int64_t(1) << 15;
  const int64_t pieces = std::max<int64_t>(1, (op.vocab + kPiece - 1) / kPiece);
  const auto apply = bitmask_table().apply[int(op.dtype)];
  const int64_t size = dtype_size(op.dtype);
  const auto piece = [&](int64_t i) {
    const int64_t pair = i / pieces, begin = i % pieces * kPiece;
    const int64_t end = std::min(op.vocab, begin + kPiece),
                  middle = std::clamp(op.covered, begin, end);
    const int64_t row = op.rows ? op.rows[pair] : pair, which = op.masks ? op.masks[pair] : pair;
    char* logits = static_cast<char*>(op.logits) + row * op.stride * size;
    const uint32_t* mask = op.mask + which * op.mask_words;
    apply(middle - begin, mask + begin / 32, logits + begin * size);
    fill(op.dtype, end - middle, logits + middle * size);
  };
  if (op.vocab == 0) return;
  if (op.count * pieces < 2) {
    for (int64_t i = 0; i < op.count; ++i) piece(i);
  } else {
    for_each(parallel, op.count * pieces, piece);
  }
}

}  // namespace thrifty::sampling
