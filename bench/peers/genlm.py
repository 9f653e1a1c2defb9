"""genlm-control's adaptive weighted rejection sampling: its own functions, its own noise and order.

What its `AWRS` does with the logits of one step, without the `Potential`s around it.
"""

import asyncio
from collections.abc import Callable

import numpy as np
import torch

from bench.peers import require


def awrs(logits: torch.Tensor, allowed: Callable[[int], bool], recursive: bool):
    """A call that returns (token, log-weight)."""
    module = require("genlm.control.sampler.token")
    generator, rng = torch.Generator().manual_seed(1), np.random.default_rng(1)
    tokens = range(len(logits))

    def make_keys(logps: torch.Tensor) -> torch.Tensor:
        u = torch.rand(logps.shape, dtype=torch.float64, generator=generator)
        return logps + u.log_().neg_().log_().neg_().to(logps.dtype)

    async def accept(token: int) -> bool:
        return allowed(token)

    async def step() -> tuple[int, float]:
        log_z = float(torch.logsumexp(logits, 0))
        common = {
            "logps": logits - log_z, "toks": tokens, "accept": accept, "make_keys": make_keys,
            "max_rejects": float("inf"),
        }  # fmt: skip
        if recursive:
            token, weight, _ = await module.recursive_awrs(**common)
        else:
            token, weight, _ = await module.geometric_awrs(**common, rng=rng, max_accepts=2)
        return token, weight

    loop = asyncio.new_event_loop()
    return lambda: loop.run_until_complete(step())
