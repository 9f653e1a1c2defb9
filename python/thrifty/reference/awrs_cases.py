"""Cases of adaptive weighted rejection sampling and of resampling."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thrifty.reference.cases import Call, Make, OpCase
from thrifty.reference.sampling import awrs_weights, sample_candidates, smc_resample

LOGITS = (torch.float32, torch.bfloat16, torch.float16)


def keys(m: Make, rows: int) -> dict[str, Tensor]:
    """Seeds and offsets that use all of their bits."""
    numbers = torch.cat([m.seed() for _ in range(rows)]) if rows else m.seed()[:0]
    return {"seeds": numbers[::2].contiguous(), "offsets": numbers[1::2].contiguous()}


def candidates(m: Make, rows: int, vocab: int, k: int, **more: object) -> Call:
    return {"logits": m.normal(rows, vocab, scale=2.0), "k": k, **keys(m, rows), **more}


def with_holes(m: Make) -> Call:
    """Tokens without mass, fewer others than k, and a row that has none."""
    call = candidates(m, 3, 70, 12)
    call["logits"][:, 8:] = -math.inf
    call["logits"][2] = -math.inf
    return call


def invalid(m: Make) -> Call:
    call = candidates(m, 3, 40, 4)
    call["logits"][0, 7], call["logits"][2, 39] = math.nan, math.inf
    return call


def continued(m: Make) -> Call:
    drawn = torch.tensor([[3, 9, 1], [0, 49, -1]], dtype=torch.int32, device=m.device)
    return candidates(m, 2, 50, 5, drawn=drawn)


def masked(m: Make) -> Call:
    mask = torch.tensor([[0x5A5A0F0F, 0x3FF], [0, 1]], dtype=torch.int32, device=m.device)
    rows = torch.tensor([1, -1, 0], dtype=torch.int32, device=m.device)
    return candidates(m, 3, 64, 6, bitmask=mask, mask_rows=rows)


def temperatures(m: Make) -> Call:
    inverse = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float32, device=m.device)
    return candidates(m, 3, 33, 6, inv_temperature=inverse)


# Sums of a block round at 2^-24 per addition in chains of vectors: 1e-5 covers them.
CANDIDATES: dict[str, Callable[[Make], Call]] = {
    "several blocks": lambda m: candidates(m, 2, 2500, 7),
    "one token": lambda m: candidates(m, 2, 1, 3),
    "all tokens": lambda m: candidates(m, 2, 31, 31),
    "more than there are": lambda m: candidates(m, 1, 5, 9),
    "none": lambda m: candidates(m, 2, 20, 0),
    "no rows": lambda m: candidates(m, 0, 20, 3),
    "tokens without mass": with_holes,
    "NaN and infinity": invalid,
    "continued": continued,
    "masked": masked,
    "temperature per row": temperatures,
    "one temperature": lambda m: candidates(m, 2, 40, 5, inv_temperature=0.5),
}


def verdicts(m: Make, **more: object) -> Call:
    """Rows that end early, late, with their mass, or not yet."""
    rows, k = 12, 6
    p = m.normal(rows, k + 1).exp()
    p[:4, k] = 0  # the order ends with the list
    p[2, 4:] = 0  # and here within it
    p = p / p.sum(1, keepdim=True)
    rest = p.flip(1).cumsum(1).flip(1)
    allowed = (m.normal(rows, k, dtype=torch.float64) > 0.4).to(torch.uint8)
    allowed[3] = 0
    allowed[5, 3:] = 2
    allowed[6] = 2
    allowed[7] = 0
    return {
        "allowed": allowed,
        "logp": p[:, :k].log(),
        "log_rest": torch.where(p[:, :k] > 0, rest[:, :k].log(), -math.inf),
        "log_tail": p[:, k].log(),
        **more,
    }


def with_coins(m: Make) -> Call:
    call = verdicts(m, estimator="paper")
    uniform = m.normal(*call["logp"].shape, dtype=torch.float64).sigmoid()
    return call | {"coins": uniform}


WEIGHTS: dict[str, Callable[[Make], Call]] = {
    "one extra": lambda m: verdicts(m, extra=1),
    "default": verdicts,
    "many extras": lambda m: verdicts(m, extra=50),
    "recursive": lambda m: verdicts(m, estimator="recursive"),
    "improper": lambda m: verdicts(m, estimator="none"),
    "budget of one": lambda m: verdicts(m, budget=1),
    "budget": lambda m: verdicts(m, budget=4, extra=2),
    "paper": with_coins,
}


def population(m: Make, *shape: int, **more: object) -> Call:
    return {"logw": m.normal(*shape, scale=1.5), **keys(m, shape[0]), **more}


def dead(m: Make) -> Call:
    call = population(m, 4, 6, ess_threshold=1.0)
    call["logw"][1] = -math.inf
    call["logw"][2, ::2] = -math.inf
    return call


RESAMPLING: dict[str, Callable[[Make], Call]] = {
    "default": lambda m: population(m, 5, 16),
    "systematic": lambda m: population(m, 3, 16, method="systematic", ess_threshold=1.0),
    "multinomial": lambda m: population(m, 3, 16, method="multinomial", ess_threshold=1.0),
    "residual": lambda m: population(m, 3, 16, method="residual", ess_threshold=1.0),
    "without weight": dead,
    "never": lambda m: population(m, 2, 8, ess_threshold=0.0),
    "one particle": lambda m: population(m, 3, 1),
    "no populations": lambda m: population(m, 0, 4),
}

BOTH = (torch.float64, torch.float32)
CASES = [
    *(OpCase(sample_candidates, name, build, dtypes=LOGITS) for name, build in CANDIDATES.items()),
    *(OpCase(awrs_weights, name, build, dtypes=BOTH) for name, build in WEIGHTS.items()),
    *(OpCase(smc_resample, name, build, dtypes=BOTH) for name, build in RESAMPLING.items()),
]
