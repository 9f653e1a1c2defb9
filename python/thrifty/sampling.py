"""Sampling under constraints: exact draws from masked and truncated logits, and adaptive weighted
rejection sampling, which checks a few tokens instead of masking the vocabulary."""

from thrifty._awrs import (
    AwrsDfaSample,
    AwrsWeights,
    Candidates,
    awrs_coins,
    awrs_sample_dfa,
    awrs_weights,
    sample_candidates,
)
from thrifty._awrs_sample import AwrsSample, awrs_sample
from thrifty._byte_dfa import ByteDFA, Vocabulary
from thrifty._masked_sample import FilterThreshold as FilterThreshold
from thrifty._masked_sample import MaskedSample as MaskedSample
from thrifty._masked_sample import (
    apply_token_bitmask_,
    filter_threshold,
    masked_sample,
    min_p_threshold,
    pack_token_bitmask,
    top_h_threshold,
    top_k_threshold,
    top_n_sigma_threshold,
    top_p_threshold,
)
from thrifty._sampling_arguments import Status as Status
from thrifty._smc import SMC, Resampled, smc_resample

__all__ = [
    "SMC",
    "AwrsDfaSample",
    "AwrsSample",
    "AwrsWeights",
    "ByteDFA",
    "Candidates",
    "Resampled",
    "Vocabulary",
    "apply_token_bitmask_",
    "awrs_coins",
    "awrs_sample",
    "awrs_sample_dfa",
    "awrs_weights",
    "filter_threshold",
    "masked_sample",
    "min_p_threshold",
    "pack_token_bitmask",
    "sample_candidates",
    "smc_resample",
    "top_h_threshold",
    "top_k_threshold",
    "top_n_sigma_threshold",
    "top_p_threshold",
]
