#include "core/array.h"

namespace thrifty {

int64_t Array::numel() const {
  int64_t n = 1;
  for (int d = 0; d < ndim; ++d) n *= shape[d];
  return n;
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
