// The checks of a ByteDfa, and masks over the whole vocabulary.
#include "sampling/byte_dfa.h"

#include <algorithm>

#include "core/error.h"

namespace thrifty::sampling {
namespace {

void check(const char* op, const char* name, const Array& a, Dtype dtype, int ndim,
           const char* shape) {
  THRIFTY_CHECK(a.dtype == dtype && a.ndim == ndim, op, ": ", name, ": expected ",
                dtype_name(dtype), " of shape ", shape, ", got ", dtype_name(a.dtype), " ",
                shape_text(a));
}

}  // namespace

ByteDfa check_byte_dfa(const char* op, const ByteDfaArgs& args) {
  check(op, "next", args.next, Dtype::kInt32, 2, "(S, 256)");
  THRIFTY_CHECK(args.next.shape[1] == 256 && args.next.shape[0] < int64_t(1) << 31, op,
                ": next: expected shape (S, 256), got ", shape_text(args.next));
  check(op, "accepting", args.accepting, Dtype::kUInt8, 1, "(S,)");
  THRIFTY_CHECK(args.accepting.shape[0] == args.next.shape[0], op, ": accepting: expected shape (",
                args.next.shape[0], ",) like next, got ", shape_text(args.accepting));
  check(op, "tok_offsets", args.offsets, Dtype::kInt32, 1, "(V + 1,)");
  THRIFTY_CHECK(args.offsets.shape[0] > 0, op, ": tok_offsets: expected shape (V + 1,), got ",
                shape_text(args.offsets));
  check(op, "tok_bytes", args.bytes, Dtype::kUInt8, 1, "(bytes,)");
  check(op, "eos_ids", args.eos_ids, Dtype::kInt32, 1, "(E,)");
  ByteDfa dfa;
  dfa.next = static_cast<const int32_t*>(args.next.data);
  dfa.accepting = static_cast<const uint8_t*>(args.accepting.data);
  dfa.offsets = static_cast<const int32_t*>(args.offsets.data);
  dfa.bytes = static_cast<const uint8_t*>(args.bytes.data);
  dfa.eos_ids = static_cast<const int32_t*>(args.eos_ids.data);
  dfa.states = args.next.shape[0];
  dfa.vocabulary = args.offsets.shape[0] - 1;
  dfa.total_bytes = args.bytes.shape[0];
  dfa.eos_count = args.eos_ids.shape[0];
  return dfa;
}

void byte_dfa_bitmask(const ByteDfa& dfa, const int32_t* states, int64_t rows, int32_t* mask,
                      ParallelFor parallel) {
  constexpr int64_t kWordsPerTask = 512;  // 16k tokens: 20 to 200 us
  const int64_t words = (dfa.vocabulary + 31) / 32;
  const int64_t pieces = (words + kWordsPerTask - 1) / kWordsPerTask;
  for_each(parallel, rows * pieces, [&](int64_t task) {
    const int64_t row = task / pieces, first = task % pieces * kWordsPerTask;
    const int64_t last = std::min(words, first + kWordsPerTask);
    for (int64_t word = first; word < last; ++word) {
      uint32_t bits = 0;
      for (int64_t bit = 0; bit < 32; ++bit) {  // beyond the vocabulary nothing is allowed
        bits |= uint32_t(dfa.step(states[row], word * 32 + bit) >= 0) << bit;
      }
      mask[row * words + word] = int32_t(bits);
    }
  });
}

}  // namespace thrifty::sampling
