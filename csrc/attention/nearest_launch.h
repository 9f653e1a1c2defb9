// nearest.cuh for each format of rows, a file each.
#pragma once

#include "attention/nearest_cuda.h"

namespace thrifty::attention::cuda {

cudaError_t nearest_fp32(const NearestArgs& args, cudaStream_t stream);
cudaError_t nearest_bf16(const NearestArgs& args, cudaStream_t stream);
cudaError_t nearest_fp16(const NearestArgs& args, cudaStream_t stream);
cudaError_t gram_fp32(const GramArgs& args, cudaStream_t stream);
cudaError_t gram_bf16(const GramArgs& args, cudaStream_t stream);
cudaError_t gram_fp16(const GramArgs& args, cudaStream_t stream);

}  // namespace thrifty::attention::cuda
