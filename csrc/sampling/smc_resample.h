// smc_resample: which particles go on, for P populations of N weighted particles.
//
// W = softmax(logw), ESS = 1 / sum W^2. Where ESS < threshold N, particle i becomes a copy of its
// ancestor a_i, with E[copies of j] = N W_j, and all log-weights become 0; log mean exp(logw) is
// then the increment of the log marginal likelihood. Schemes as in Douc, Cappe and Moulines,
// "Comparison of resampling schemes for particle filtering" (2005), sections 2 and 3.
#pragma once

#include <string_view>

#include "core/array.h"
#include "core/parallel.h"

namespace thrifty::sampling {

enum class Resampling : int { kStratified, kSystematic, kMultinomial, kResidual };

struct SmcResampleArgs {
  Array logw, seeds, offsets;
  std::string_view method = "stratified";
  double ess_threshold = 0.5;
};

struct SmcResample {
  int64_t populations = 0, particles = 0;
  Dtype dtype = Dtype::kFloat32;  // float32 or float64
  const void* logw = nullptr;     // [P, N]
  const int64_t *seeds = nullptr, *offsets = nullptr;  // [P]
  Resampling method = Resampling::kStratified;
  double ess_threshold = 0.5;
};

// Arrays are contiguous.
SmcResample check_smc_resample(const SmcResampleArgs& args);

struct SmcResampleOut {
  int64_t* ancestors;      // [P, N]
  void* logw;              // [P, N], dtype
  void* ess;               // [P], dtype
  void* log_ml_increment;  // [P], dtype
};

void smc_resample(const SmcResample& problem, const SmcResampleOut& out, ParallelFor parallel);

}  // namespace thrifty::sampling
