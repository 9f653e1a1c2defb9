"""The drafting family's cases: each names what it exercises.

A 16-bit row is compared with the oracle on the same rounded numbers, so it has float32's bound.
Rows of 16 bits hold many equal logits, which top_p takes together, the oracle one by one: cuts are
compared in float32.
"""

from typing import Any

import torch

from thrifty.reference.cases import Call, Make, OpCase
from thrifty.reference.drafting import row_stats

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TOLERANCE = dict.fromkeys(DTYPES, 1e-5)


def rows(make: Make, count: int = 3, vocab: int = 2500, **options: Any) -> Call:
    pairs = [make.seed() for _ in range(count)]
    keys = torch.stack(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64)
    call = {"logits": make.normal(count, vocab, scale=3.0)} | options
    return call | {"seed": keys[:, 0].to(make.device), "offset": keys[:, 1].to(make.device)}


def excluded(make: Make, **options: Any) -> Call:
    """What would be drawn most often, ids that pad, and a row that keeps all."""
    call = rows(make, **options)
    best = call["logits"].float().topk(5).indices.to(torch.int32)
    best[:, 3] = -1
    best[-1] = -1
    return call | {"exclude": best}


def forbidden(make: Make) -> Call:
    call = rows(make, vocab=70)
    call["logits"][0, 5:] = -torch.inf
    call["logits"][1, :69] = -torch.inf
    return call


ROW_STATS = {
    "one block": lambda m: rows(m, vocab=700),
    "several blocks": rows,
    "one token": lambda m: rows(m, vocab=1),
    "no rows": lambda m: rows(m, 0),
    "many rows": lambda m: rows(m, 9, 1030),
    "k of 0": lambda m: rows(m, k=0),
    "k above the vocabulary": lambda m: rows(m, vocab=5, k=8),
    "without a seed": lambda m: {"logits": m.normal(3, 50), "k": 4},
    "temperature": lambda m: rows(m, temperature=0.6),
    "temperature 0": lambda m: rows(m, temperature=0.0),
    "excluded": excluded,
    "forbidden": forbidden,
}
CUTS = {
    "top_k": lambda m: rows(m, top_k=20),
    "top_p": lambda m: rows(m, top_p=0.9),
    "min_p": lambda m: rows(m, min_p=0.05),
    "all cuts, excluded": lambda m: excluded(
        m, temperature=1.5, top_k=200, top_p=0.95, min_p=0.001
    ),
}

CASES = [
    *(OpCase(row_stats, name, build, (), DTYPES, TOLERANCE) for name, build in ROW_STATS.items()),
    *(OpCase(row_stats, name, build, (), DTYPES[:1], TOLERANCE) for name, build in CUTS.items()),
]
