// What every op file of the torch edge needs: tensors as Arrays for the checks, dtypes, contiguous
// copies, torch's threads. Stable ABI only: one binary for every torch from 2.10 on.
#pragma once

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <string>
#include <vector>

#include "core/array.h"
#include "core/error.h"
#include "core/parallel.h"

namespace thrifty::edge {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline Dtype dtype_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Dtype::kFloat32;
    case ScalarType::BFloat16: return Dtype::kBFloat16;
    case ScalarType::Half: return Dtype::kFloat16;
    case ScalarType::Double: return Dtype::kFloat64;
    case ScalarType::Long: return Dtype::kInt64;
    case ScalarType::Int: return Dtype::kInt32;
    case ScalarType::Byte: return Dtype::kUInt8;
    default: return Dtype::kOther;
  }
}

inline Array array(const Tensor& tensor) {
  THRIFTY_CHECK(tensor.dim() <= Array::kMaxDims, "thrifty: expected at most 8 dimensions, got ",
                tensor.dim());
  Array a;
  a.data = tensor.data_ptr();
  a.dtype = dtype_of(tensor);
  a.ndim = int(tensor.dim());
  for (int d = 0; d < a.ndim; ++d) {
    a.shape[size_t(d)] = tensor.size(d);
    a.strides[size_t(d)] = tensor.stride(d);
  }
  return a;
}

inline Array array(const OptionalTensor& tensor) { return tensor ? array(*tensor) : Array{}; }

inline std::vector<Array> arrays(const std::vector<Tensor>& tensors) {
  std::vector<Array> all;
  for (const Tensor& tensor : tensors) all.push_back(array(tensor));
  return all;
}

// Asked first: a call through the dispatcher costs 1 us, and small ops have a dozen arguments.
inline Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}
inline OptionalTensor dense(const OptionalTensor& tensor) {
  return tensor ? OptionalTensor(dense(*tensor)) : std::nullopt;
}

// Rows that are contiguous need no copy, however far apart they lie.
inline Tensor dense_rows(const Tensor& tensor) {
  const bool has_dense_rows = tensor.dim() > 0 && (tensor.stride(-1) == 1 || tensor.size(-1) <= 1);
  return has_dense_rows ? tensor : dense(tensor);
}

// A result in the dtype and on the device of `like`; not wanted: one without elements.
inline Tensor empty(const Tensor& like, std::vector<int64_t> shape, bool wanted = true) {
  if (!wanted) shape = {0};
  return torch::stable::new_empty(like, shape);
}

inline Tensor empty_like(const Tensor& fallback, const OptionalTensor& like, bool wanted) {
  if (!like || !wanted) return empty(fallback, {0});
  return empty(*like, std::vector<int64_t>(like->sizes().begin(), like->sizes().end()));
}

inline void* data(const Tensor& tensor) { return tensor.numel() > 0 ? tensor.data_ptr() : nullptr; }

inline Tensor integers(const Tensor& like, std::vector<int64_t> shape) {
  return torch::stable::new_empty(like, shape, ScalarType::Int);
}
inline int32_t* ints(const Tensor& tensor) { return static_cast<int32_t*>(data(tensor)); }

// In the dtype of sums: float64 where `like` is, float32 elsewhere.
inline Tensor sums(const Tensor& like, std::vector<int64_t> shape) {
  const bool wide = dtype_of(like) == Dtype::kFloat64;
  return torch::stable::new_empty(like, shape, wide ? ScalarType::Double : ScalarType::Float);
}

// A Device of the op templates, of which families derive theirs: nothing to refuse on the CPU.
struct CpuTensors {
  static void check(const char*, const char*, const Tensor&, const char*, const Tensor&) {}
};

// SameDevice<Device>(op, "logits", logits)("seeds", seeds)...: each lies where the first does.
template <class Device>
class SameDevice {
 public:
  SameDevice(const char* op, const char* name, const Tensor& first)
      : op_(op), first_name_(name), first_(first) {
    (*this)(name, first);
  }
  const SameDevice& operator()(const char* name, const Tensor& tensor) const {
    Device::check(op_, name, tensor, first_name_, first_);
    return *this;
  }
  const SameDevice& operator()(const char* name, const OptionalTensor& tensor) const {
    return tensor ? (*this)(name, *tensor) : *this;
  }

 private:
  const char *op_, *first_name_;
  const Tensor& first_;
};

inline void torch_threads(int64_t begin, int64_t end, int64_t grain, RangeFn fn, void* context) {
  if (begin >= end) return;
  if (torch_parallel_for(begin, end, grain, fn, context) != 0) {
    throw std::runtime_error("thrifty: torch's parallel_for failed");
  }
}

}  // namespace thrifty::edge
