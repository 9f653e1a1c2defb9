// What every file of the Python edge needs: NumPy arrays as Arrays for the checks, and new arrays
// for results.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/error.h"

namespace thrifty::python {

namespace py = pybind11;
using OptionalArray = std::optional<py::array>;

// bfloat16 is no type of NumPy's own: ml_dtypes registers one by that name.
inline Dtype dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  const char kind = dtype.kind();
  const auto size = dtype.itemsize();
  if (kind == 'f' && size == 4) return Dtype::kFloat32;
  if (kind == 'f' && size == 8) return Dtype::kFloat64;
  if (kind == 'f' && size == 2) return Dtype::kFloat16;
  if (kind == 'i' && size == 8) return Dtype::kInt64;
  if (kind == 'i' && size == 4) return Dtype::kInt32;
  if (kind == 'u' && size == 1) return Dtype::kUInt8;
  if (size == 2 && py::str(dtype.attr("name")).cast<std::string>() == "bfloat16") {
    return Dtype::kBFloat16;
  }
  return Dtype::kOther;
}

// Of a C-contiguous array of native byte order; `dense` makes one.
inline Array view(const py::array& array) {
  THRIFTY_CHECK(array.ndim() <= Array::kMaxDims, "thrifty: expected at most 8 dimensions, got ",
                array.ndim());
  Array a;
  a.data = const_cast<void*>(array.data());
  a.dtype = dtype_of(array);
  a.ndim = int(array.ndim());
  int64_t stride = 1;
  for (int d = a.ndim - 1; d >= 0; --d) {
    a.shape[size_t(d)] = array.shape(d);
    a.strides[size_t(d)] = stride;
    stride *= array.shape(d);
  }
  return a;
}

inline Array view(const OptionalArray& array) { return array ? view(*array) : Array{}; }

inline std::vector<Array> views(const std::vector<py::array>& arrays) {
  std::vector<Array> all;
  for (const py::array& array : arrays) all.push_back(view(array));
  return all;
}

// The array itself, or a copy when it is strided, misaligned or of foreign byte order.
inline py::array dense(const py::array& array) {
  constexpr int kWanted = int(py::array::c_style) | int(py::detail::npy_api::NPY_ARRAY_ALIGNED_);
  const bool native = array.dtype().attr("isnative").cast<bool>();
  if (native && (array.flags() & kWanted) == kWanted) return array;
  const py::object dtype = array.dtype().attr("newbyteorder")("=");
  const auto numpy = py::module_::import("numpy");
  return numpy.attr("require")(array, dtype, py::make_tuple("C", "A"));
}

inline OptionalArray dense(const OptionalArray& array) {
  return array ? OptionalArray(dense(*array)) : std::nullopt;
}

inline py::array empty(const py::array& like, const std::vector<int64_t>& shape) {
  return py::array(like.dtype(), std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

}  // namespace thrifty::python
