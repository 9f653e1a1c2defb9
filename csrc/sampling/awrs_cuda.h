// Weighted rejection sampling and resampling on CUDA: the same checked arguments as on the CPU,
// their pointers on the device. As sampling_cuda.h: no synchronisation, no allocation, the same
// uniforms as on the CPU.
#pragma once

#include "sampling/awrs_sample_dfa.h"
#include "sampling/awrs_weights.h"
#include "sampling/sample_candidates.h"
#include "sampling/sampling_cuda.h"
#include "sampling/smc_resample.h"

namespace thrifty::sampling::cuda {

// Rows at T = 0, which the CPU refuses, get the status kInvalid.
int64_t sample_candidates_scratch(const SampleCandidates& op);
Status sample_candidates(const SampleCandidates& op, const SampleCandidatesOut& out, void* scratch,
                         cudaStream_t stream);

int64_t awrs_sample_dfa_scratch(const AwrsSampleDfa& op);
Status awrs_sample_dfa(const AwrsSampleDfa& op, const AwrsSampleDfaOut& out, void* scratch,
                       cudaStream_t stream);

Status awrs_weights(const AwrsWeights& problem, const AwrsWeightsOut& out, cudaStream_t stream);
Status awrs_coins(const int64_t* seeds, const int64_t* offsets, int64_t rows, int64_t k,
                  double* coins, cudaStream_t stream);

int64_t smc_resample_scratch(const SmcResample& problem);
Status smc_resample(const SmcResample& problem, const SmcResampleOut& out, void* scratch,
                    cudaStream_t stream);

}  // namespace thrifty::sampling::cuda
