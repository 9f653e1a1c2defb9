"""The sampling family's cases: each names what it exercises.

Masked logits are random normal numbers, few of them equal. A 16-bit row is compared with the oracle
on the same rounded numbers, so it has float32's bound. Seeds and offsets use the high halves, too.
"""

import math
from typing import Any

import torch
from torch import Tensor

from thrifty.reference.cases import Call, Make, OpCase
from thrifty.reference.sampling import apply_token_bitmask_, filter_threshold, masked_sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Sums are float32 whatever the logits are, and the results always are.
TOLERANCE = dict.fromkeys(DTYPES, 1e-5)


def bits(make: Make, rows: int, vocab: int, share: float = 0.5) -> Tensor:
    """Random mask words with about this share of ones; spare bits are random, too."""
    words = (vocab + 31) // 32
    chosen = make.normal(rows, words * 32, dtype=torch.float64) < math.sqrt(2) * torch.erfinv(
        torch.tensor(2 * share - 1, dtype=torch.float64)
    )
    shifts = torch.arange(32, device=make.device)
    packed = (chosen.unflatten(-1, (words, 32)).to(torch.int64) << shifts).sum(-1)
    return torch.where(packed >= 1 << 31, packed - (1 << 32), packed).to(torch.int32)


def keys(make: Make, rows: int) -> Call:
    pairs = [make.seed() for _ in range(rows)]
    seeds = torch.stack(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64)
    return {"seeds": seeds[:, 0].to(make.device), "offsets": seeds[:, 1].to(make.device)}


def row_logits(make: Make, rows: int = 3, vocab: int = 2500, scale: float = 3.0) -> Call:
    return {"logits": make.normal(rows, vocab, scale=scale)}


def sample(
    make: Make, rows: int = 3, vocab: int = 2500, *, share: float | None = 0.5, **options: Any
) -> Call:
    call = row_logits(make, rows, vocab) | keys(make, rows)
    if share is not None:
        call["bitmask"] = bits(make, rows, vocab, share)
    return call | options


def numbers(make: Make, *values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype, device=make.device)


def broken_rows(make: Make) -> Call:
    """NaN, +inf, all -inf, nothing allowed, one token with mass."""
    call = sample(make, 5, 70)
    logits = call["logits"]
    logits[0, 68], logits[1, 3], logits[2] = math.nan, math.inf, -math.inf
    call["bitmask"][3] = 0
    logits[4] = -math.inf
    logits[4, 66] = 0.5
    call["bitmask"][4] = -1
    return call | {"fallback_token": 7}


def far_rows(make: Make) -> Call:
    """Everything that is allowed lies 30, 200 or 1000 below what is not, in the same block."""
    call = sample(make, 3, 1500, share=0.02)
    for row, gap in enumerate((30.0, 200.0, 1000.0)):
        call["logits"][row, 5:9] += gap
        call["bitmask"][row, 0] &= ~0b111100000
        call["bitmask"][row, 40] |= 1
    return call


def mapped(make: Make) -> Call:
    call = sample(make, 4, 100)
    rows = torch.tensor([1, -1, 0, 1], dtype=torch.int32, device=make.device)
    return call | {"bitmask": call["bitmask"][:2].clone(), "mask_rows": rows}


def short_mask(make: Make) -> Call:
    call = sample(make, 2, 2500)
    return call | {"bitmask": call["bitmask"][:, :40].clone()}


FILTERS = {
    "top_k": {"top_k": 20},
    "top_k beyond the sorted": {"top_k": 1500},
    "top_p": {"top_p": 0.9},
    "top_p of many": {"top_p": 0.999, "inv_temperature": 0.5},
    "top_k, then top_p": {"top_k": 40, "top_p": 0.7},
    "min_p": {"min_p": 0.1, "inv_temperature": 1.3},
    "top_n_sigma": {"top_n_sigma": 1.5},
    "top_h": {"top_h": 0.5},
    "top_h, renormalised": {"top_h": 0.5, "top_h_variant": "renorm"},
    "every filter": {"top_k": 200, "top_p": 0.95, "min_p": 0.01, "top_n_sigma": 3.0, "top_h": 0.9},
}


def per_row_filters(make: Make) -> Call:
    return {
        "inv_temperature": numbers(make, 1.0, 0.5, 2.0),
        "top_k": numbers(make, 0, 5, 2500, dtype=torch.int64),
        "top_p": numbers(make, 0.8, 1.0, 0.0),
        "min_p": numbers(make, 0.0, 0.2, 0.0),
        "top_n_sigma": numbers(make, 2.0, 0.0, 0.0),
        "top_h": numbers(make, 0.0),
    }


SAMPLES = {
    "no mask": lambda m: sample(m, share=None),
    "mask": sample,
    "few allowed": lambda m: sample(m, share=0.004),
    "all allowed": lambda m: sample(m) | {"bitmask": torch.full_like(bits(m, 3, 2500), -1)},
    "mask shorter than the vocabulary": short_mask,
    "masks by mask_rows": mapped,
    "one token": lambda m: sample(m, 2, 1, share=None),
    "33 tokens": lambda m: sample(m, 5, 33),
    "one block and a token": lambda m: sample(m, 2, 1025),
    "no rows": lambda m: sample(m, 0, 40),
    "a row split over threads": lambda m: sample(m, 1, 70_000),
    "warm": lambda m: sample(m, inv_temperature=0.3),
    "cold": lambda m: sample(m, inv_temperature=4.0),
    "greedy": lambda m: sample(m, inv_temperature=math.inf),
    "evenly": lambda m: sample(m, inv_temperature=0.0),
    "broken rows": broken_rows,
    "allowed tokens far below": far_rows,
    "threshold": lambda m: sample(m, threshold=2.0),
    "filters by row": lambda m: sample(m) | per_row_filters(m),
    **{name: (lambda m, o=options: sample(m, **o)) for name, options in FILTERS.items()},
    "top_p without a mask": lambda m: sample(m, share=None, top_p=0.9),
}


def thresholds(make: Make, **options: Any) -> Call:
    call = sample(make, **options)
    return {name: value for name, value in call.items() if name not in ("seeds", "offsets")}


THRESHOLDS = {
    "no filter": thresholds,
    "nothing allowed": lambda m: thresholds(m, share=0.0, top_k=5),
    "by row": lambda m: thresholds(m) | per_row_filters(m),
    "every filter": lambda m: thresholds(m, **FILTERS["every filter"]),
    "min_p without a mask": lambda m: thresholds(m, share=None, min_p=0.05),
}


def masking(make: Make, rows: int = 4, vocab: int = 1500, **options: Any) -> Call:
    return row_logits(make, rows, vocab) | {"bitmask": bits(make, rows, vocab)} | options


def row_numbers(make: Make, *values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device=make.device)


MASKS = {
    "every row": masking,
    "some rows": lambda m: masking(m, indices=row_numbers(m, 3, 0)),
    "a row twice": lambda m: masking(m, indices=row_numbers(m, 2, 2)),
    "compact masks": lambda m: (
        masking(m) | {"bitmask": bits(m, 2, 1500), "row_map": row_numbers(m, 3, 1)}
    ),
    "fewer tokens than bits": lambda m: masking(m, vocab_size=1001),
    "a mask for a smaller vocabulary": lambda m: masking(m) | {"bitmask": bits(m, 4, 640)},
    "one token": lambda m: masking(m, 2, 1),
    "33 tokens": lambda m: masking(m, 3, 33),
    "no rows": lambda m: masking(m, 0, 40),
    "pieces of a row": lambda m: masking(m, 2, 66_000),
}


def table(oracle: Any, builds: dict[str, Any]) -> list[OpCase]:
    return [
        OpCase(oracle, name, build, dtypes=DTYPES, tolerance=TOLERANCE)
        for name, build in builds.items()
    ]


CASES = [
    *table(apply_token_bitmask_, MASKS),
    *table(masked_sample, SAMPLES),
    *table(filter_threshold, THRESHOLDS),
]
