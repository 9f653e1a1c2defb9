// What the CUDA ops of the family share: all arguments on one device, launch errors.
#pragma once

#include <string>

#include "sampling/edge.h"
#include "sampling/sampling_cuda.h"
#include "torch/edge_cuda.h"

namespace thrifty::sampling::ops {

using edge::ScalarType;

inline void done(const cuda::Status& status) { edge::check_launch(status.kernel, status.error); }

// SameDevice(op, "logits", logits)("seeds", seeds)...: each lies where the first does.
class SameDevice {
 public:
  SameDevice(std::string op, const char* name, const Tensor& first)
      : op_(std::move(op)), first_name_(name), first_(first) {
    THRIFTY_CHECK(first.is_cuda(), op_, ": ", name, ": expected a CUDA tensor, as others are, got ",
                  "one on ", edge::device_text(first));
  }
  const SameDevice& operator()(const char* name, const OptionalTensor& tensor) const {
    THRIFTY_CHECK(
        !tensor || (tensor->is_cuda() && tensor->get_device_index() == first_.get_device_index()),
        op_, ": ", name, ": expected a tensor on ", edge::device_text(first_), " like ",
        first_name_, ", got one on ", edge::device_text(*tensor));
    return *this;
  }

 private:
  std::string op_;
  const char* first_name_;
  const Tensor& first_;
};

}  // namespace thrifty::sampling::ops
