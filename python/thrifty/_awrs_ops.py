"""Fake kernels of the ops of adaptive weighted rejection sampling, and of resampling."""

import torch
from torch import Tensor

import thrifty._library  # noqa: F401

# The overloads themselves: choosing one among the overloads of a name takes 2 us a call.
sample_candidates = torch.ops.thrifty.sample_candidates.default
awrs_coins = torch.ops.thrifty.awrs_coins.default
awrs_weights = torch.ops.thrifty.awrs_weights.default
awrs_sample_dfa = torch.ops.thrifty.awrs_sample_dfa.default
smc_resample = torch.ops.thrifty.smc_resample.default


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


@torch.library.register_fake("thrifty::sample_candidates")
def _sample_candidates(
    logits: Tensor,
    k: int,
    bitmask: Tensor | None,
    mask_rows: Tensor | None,
    inv_temperature: Tensor | None,
    drawn: Tensor | None,
    seeds: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows, vocab = logits.shape
    shape = (rows, torch.sym_min(k, vocab))
    return (
        logits.new_empty(shape, dtype=torch.int32),
        logits.new_empty(shape, dtype=torch.float32),
        logits.new_empty(shape, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.int32),
    )


@torch.library.register_fake("thrifty::awrs_coins")
def _awrs_coins(seeds: Tensor, offsets: Tensor, k: int) -> Tensor:
    return seeds.new_empty((seeds.shape[0], k), dtype=torch.float64)


@torch.library.register_fake("thrifty::awrs_sample_dfa")
def _awrs_sample_dfa(logits: Tensor, *args: object) -> tuple[Tensor, ...]:
    rows = logits.shape[0]
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.float32),
        *(logits.new_empty(rows, dtype=torch.int32) for _ in range(3)),
    )
