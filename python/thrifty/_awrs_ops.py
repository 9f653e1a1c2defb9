"""Fake kernels of the ops of adaptive weighted rejection sampling, and of resampling."""

import torch
from torch import Tensor

import thrifty._library  # noqa: F401


@torch.library.register_fake("thrifty::awrs_weights")
def _awrs_weights(
    allowed: Tensor,
    logp: Tensor,
    log_rest: Tensor,
    log_tail: Tensor,
    coins: Tensor | None,
    estimator: str,
    extra: int,
    budget: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = allowed.shape[0]
    return (
        logp.new_empty(rows, dtype=torch.int32),
        logp.new_empty(rows),
        logp.new_empty(rows, dtype=torch.bool),
        logp.new_empty(rows, dtype=torch.int32),
    )


@torch.library.register_fake("thrifty::smc_resample")
def _smc_resample(
    logw: Tensor, seeds: Tensor, offsets: Tensor, method: str, ess_threshold: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    populations = logw.shape[0]
    return (
        logw.new_empty(logw.shape, dtype=torch.int64),
        logw.new_empty(logw.shape),
        logw.new_empty(populations),
        logw.new_empty(populations),
    )
