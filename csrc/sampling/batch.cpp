// Checks of batch.h.
#include "sampling/batch.h"

#include <algorithm>
#include <limits>

#include "core/error.h"

namespace thrifty::sampling {

float Batch::inv_temperature_of(int64_t b) const {
  return std::max(inv_temperature[b], std::numeric_limits<float>::min());
}

LogitsRow Batch::row(int64_t b) const {
  LogitsRow row;
  row.logits = static_cast<const char*>(logits) + b * stride * dtype_size(dtype);
  row.dtype = dtype;
  row.vocab = vocab;
  row.inv_temperature = inv_temperature_of(b);
  const int64_t which = mask_rows ? mask_rows[b] : b;
  if (mask != nullptr && which >= 0) {
    row.mask = mask + which * mask_words;
    row.mask_words = mask_words;
  }
  return row;
}

template <class T>
PerRow<T> check_per_row(const std::string& op, const char* name, const Array& array, Dtype dtype,
                        int64_t rows, T fallback) {
  if (!array) return {nullptr, 0, fallback};
  const bool one = array.numel() == 1;
  THRIFTY_CHECK(array.dtype == dtype && array.ndim <= 1 && (one || array.numel() == rows), op, ": ",
                name, ": expected ", dtype_name(dtype), " of shape (1,) or (", rows, ",), got ",
                dtype_name(array.dtype), " ", shape_text(array));
  return {static_cast<const T*>(array.data), one ? 0 : 1, fallback};
}

template PerRow<float> check_per_row(const std::string&, const char*, const Array&, Dtype, int64_t,
                                     float);
template PerRow<int64_t> check_per_row(const std::string&, const char*, const Array&, Dtype,
                                       int64_t, int64_t);

const int64_t* check_seeds(const std::string& op, const char* name, const Array& array,
                           int64_t rows) {
  THRIFTY_CHECK(array.dtype == Dtype::kInt64 && array.ndim == 1 && array.numel() == rows, op, ": ",
                name, ": expected int64 of shape (", rows, ",), got ", dtype_name(array.dtype), " ",
                shape_text(array));
  return static_cast<const int64_t*>(array.data);
}

namespace {

void check_mask(const BatchArgs& args, Batch& batch) {
  const std::string& op = args.op;
  const Array &mask = args.bitmask, &rows = args.mask_rows;
  THRIFTY_CHECK(!rows || mask, op, ": mask_rows: expected None without a bitmask, got ",
                shape_text(rows));
  if (!mask) return;
  THRIFTY_CHECK(mask.dtype == Dtype::kInt32 && mask.ndim == 2, op,
                ": bitmask: expected int32 of shape (masks, words), got ", dtype_name(mask.dtype),
                " ", shape_text(mask));
  const int64_t most = (batch.vocab + 31) / 32;
  THRIFTY_CHECK(mask.size(1) <= most, op, ": bitmask: expected at most ", most, " words for ",
                batch.vocab, " tokens, got ", shape_text(mask));
  if (rows) {
    THRIFTY_CHECK(rows.dtype == Dtype::kInt32 && rows.ndim == 1 && rows.numel() == batch.rows, op,
                  ": mask_rows: expected int32 of shape (", batch.rows, ",), got ",
                  dtype_name(rows.dtype), " ", shape_text(rows));
    batch.mask_rows = static_cast<const int32_t*>(rows.data);
    for (int64_t b = 0; b < batch.rows && !args.on_device; ++b) {
      const int32_t which = batch.mask_rows[b];
      THRIFTY_CHECK(which >= -1 && which < mask.size(0), op,
                    ": mask_rows: expected -1 or the row of one of ", mask.size(0), " masks, got ",
                    which);
    }
  } else {
    THRIFTY_CHECK(mask.size(0) == batch.rows, op, ": bitmask: expected ", batch.rows,
                  " rows as the logits have, got ", shape_text(mask));
  }
  // A mask without words allows nothing; the pointer only says that there is one.
  static constexpr uint32_t kNone = 0;
  batch.mask = mask.numel() > 0 ? static_cast<const uint32_t*>(mask.data) : &kNone;
  batch.masks = mask.size(0);
  batch.mask_words = mask.size(1);
}

}  // namespace

Batch check_batch(const BatchArgs& args) {
  const std::string& op = args.op;
  const Array& logits = args.logits;
  THRIFTY_CHECK(is_logits(logits.dtype), op,
                ": logits: expected float32, bfloat16 or float16, got ", dtype_name(logits.dtype));
  THRIFTY_CHECK(logits.ndim == 2, op, ": logits: expected shape (B, V), got ", shape_text(logits));
  THRIFTY_CHECK(logits.size(1) <= std::numeric_limits<int32_t>::max(), op,
                ": logits: expected fewer than 2^31 tokens, got ", shape_text(logits));
  Batch batch;
  batch.dtype = logits.dtype;
  batch.logits = logits.data;
  batch.rows = logits.size(0);
  batch.vocab = logits.size(1);
  batch.stride = logits.stride(0);
  check_mask(args, batch);
  batch.inv_temperature =
      check_per_row(op, "inv_temperature", args.inv_temperature, Dtype::kFloat32, batch.rows, 1.0f);
  for (int64_t b = 0; b < batch.rows && !args.on_device; ++b) {
    const float it = batch.inv_temperature[b];
    THRIFTY_CHECK(it >= 0, op, ": inv_temperature: expected numbers in [0, inf], got ", it);
  }
  return batch;
}

}  // namespace thrifty::sampling
