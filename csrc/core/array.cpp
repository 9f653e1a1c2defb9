#include "core/array.h"

namespace thrifty {

int64_t Array::numel() const {
  int64_t n = 1;
  for (int d = 0; d < ndim; ++d) n *= shape[d];
  return n;
}

bool Array::is_contiguous() const {
  int64_t expected = 1;
  for (int d = ndim - 1; d >= 0; --d) {
    if (shape[d] != 1 && strides[d] != expected) return false;
    expected *= shape[d];
  }
  return true;
}

std::string shape_text(const Array& array) {
  if (!array) return "None";
  std::string text = "(";
  for (int d = 0; d < array.ndim; ++d) {
    text += (d ? ", " : "") + std::to_string(array.shape[d]);
  }
  return text + (array.ndim == 1 ? ",)" : ")");
}

}  // namespace thrifty
