"""Sampling under constraints: exact draws from masked and truncated logits, and adaptive weighted
rejection sampling, which checks a few tokens instead of masking the vocabulary."""

from thrifty._masked_sample import (
    FilterThreshold,
    MaskedSample,
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
from thrifty._sampling_arguments import Status

__all__ = [
    "FilterThreshold",
    "MaskedSample",
    "Status",
    "apply_token_bitmask_",
    "filter_threshold",
    "masked_sample",
    "min_p_threshold",
    "pack_token_bitmask",
    "top_h_threshold",
    "top_k_threshold",
    "top_n_sigma_threshold",
    "top_p_threshold",
]
