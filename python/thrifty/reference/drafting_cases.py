"""The drafting family's cases: each names what it exercises.

A 16-bit row is compared with the oracle on the same rounded numbers, so it has float32's bound.
Rows of 16 bits hold many equal logits, which top_p takes together, the oracle one by one: cuts are
compared in float32.
"""

from collections.abc import Callable
from typing import Any

import torch

from thrifty._draft_tree import DraftTree
from thrifty._ngram_table import NgramTable
from thrifty.reference.cases import Call, Make, OpCase
from thrifty.reference.drafting import row_stats, verify_chain, verify_tree

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


ROW_STATS: dict[str, Callable[[Make], Call]] = {
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
CUTS: dict[str, Callable[[Make], Call]] = {
    "top_k": lambda m: rows(m, top_k=20),
    "top_p": lambda m: rows(m, top_p=0.9),
    "min_p": lambda m: rows(m, min_p=0.05),
    "all cuts, excluded": lambda m: excluded(
        m, temperature=1.5, top_k=200, top_p=0.95, min_p=0.001
    ),
}

# ---- verification


def tree(make: Make, batch: int = 3, nodes: int = 12, vocab: int = 1100, **options: Any) -> Call:
    """Logits that like about half of what was drafted. Offsets as of texts: no carry into 2^63."""
    table = NgramTable(1 << 10, n_max=1)
    context = torch.arange(40)
    ids = (context[:, None] * 7 + torch.arange(6) * 5) % 40
    table.update(context[:, None], ids=ids, probs=torch.full((40, 6), 1 / 8))
    tails = torch.arange(batch)[:, None] * 3
    draft = table.draft(tails, tree=DraftTree.default(nodes), mode="greedy")
    logits = make.normal(batch, draft.tokens.shape[1], vocab, scale=2.0)
    for b in range(batch):
        for node in range(1, int(draft.sizes[b]), 2):
            logits[b, draft.parents[b, node], draft.tokens[b, node]] += 12
    call = {"logits": logits, "draft": draft}
    return call | seeds(make, batch) | options


def chain(make: Make, batch: int = 3, length: int = 4, **options: Any) -> Call:
    logits = make.normal(batch, length + 1, 300, scale=2.0)
    tokens = make.normal(batch, length, dtype=torch.float64).mul(100).abs().long() % 300
    kept = torch.arange(length) < torch.arange(batch)[:, None] + 1
    liked = torch.zeros(batch, length, 300).scatter(2, tokens.cpu()[..., None], 14.0)
    logits[:, :-1] += (liked * kept[..., None]).to(logits)
    return {"logits": logits, "tokens": tokens} | seeds(make, batch) | options


def seeds(make: Make, batch: int) -> Call:
    pairs = [make.seed() for _ in range(batch)]
    keys = torch.stack(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64)
    keys = keys.to(make.device)
    return {"seed": keys[:, 0], "offset": keys[:, 1].abs() >> 20}


VERIFY_TREE: dict[str, Callable[[Make], Call]] = {
    "target": lambda m: tree(m, rule="target"),
    "greedy": lambda m: tree(m, rule="greedy"),
    "tempered": lambda m: tree(m, rule="target", temperature=0.7, k=3),
    "node 0 alone": lambda m: tree(m, nodes=1, rule="target"),
    "two words of nodes": lambda m: tree(m, 2, 80, 300, rule="target"),
}
VERIFY_CHAIN: dict[str, Callable[[Make], Call]] = {
    "without q": chain,
    "no drafts": lambda m: chain(m, length=0),
    "ragged": lambda m: chain(
        m, lens=torch.tensor([0, 1, 4], dtype=torch.int32, device=m.device), temperature=0.8
    ),
}

CASES = [
    *(OpCase(row_stats, name, build, (), DTYPES, TOLERANCE) for name, build in ROW_STATS.items()),
    *(OpCase(row_stats, name, build, (), DTYPES[:1], TOLERANCE) for name, build in CUTS.items()),
    *(
        OpCase(verify_tree, name, build, (), DTYPES, TOLERANCE)
        for name, build in VERIFY_TREE.items()
    ),
    *(
        OpCase(verify_chain, name, build, (), DTYPES, TOLERANCE)
        for name, build in VERIFY_CHAIN.items()
    ),
]
