// The ops of the family on CUDA: the same checked arguments as on the CPU, their pointers on the
// device.
//
// Nothing here synchronises, allocates or reads device memory, so calls may be captured in a CUDA
// graph. Results are deterministic and do not depend on a row's place in the batch. `scratch`: so
// many bytes as the op's function says, on 256.
#pragma once

#include <driver_types.h>

#include "core/row_measure.h"
#include "sampling/bitmask.h"
#include "sampling/masked_sample.h"

namespace thrifty::sampling::cuda {

using Status = thrifty::cuda::LaunchStatus;

Status apply_token_bitmask(const ApplyBitmask& op, cudaStream_t stream);

int64_t masked_sample_scratch(const MaskedSample& op);
Status masked_sample(const MaskedSample& op, const MaskedSampleOut& out, void* scratch,
                     cudaStream_t stream);

int64_t filter_threshold_scratch(const FilterThreshold& op);
Status filter_threshold(const FilterThreshold& op, const FilterThresholdOut& out, void* scratch,
                        cudaStream_t stream);

}  // namespace thrifty::sampling::cuda
