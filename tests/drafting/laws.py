"""Decoding by drafts and verification, many sequences at once, and chi-square tests of its law."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import thrifty
from thrifty import Draft, DraftTree, NgramTable

VOCAB = 12


def p_value(counts: np.ndarray, law: np.ndarray) -> float:
    """Pearson's chi-square, bins with fewer than 10 expected put together."""
    expected = law * counts.sum()
    assert counts[law == 0].sum() == 0, "a token without probability was emitted"
    big = expected >= 10
    observed = np.append(counts[big], counts[~big].sum())
    wanted = np.append(expected[big], expected[~big].sum())
    keep = wanted > 0
    statistic = ((observed - wanted)[keep] ** 2 / wanted[keep]).sum()
    half = torch.tensor([(keep.sum() - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def markov_logits(seed: int = 0, scale: float = 1.5) -> Tensor:
    """(V, V): what follows each token."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VOCAB, VOCAB, generator=generator) * scale


def learned_table(logits: Tensor, noise: float, k: int = 6, **options: int) -> NgramTable:
    """A table that knows the k best tokens of a noisy copy of the model."""
    generator = torch.Generator().manual_seed(1)
    noisy = logits + noise * torch.randn(logits.shape, generator=generator)
    probs, ids = torch.softmax(noisy, -1).topk(k)
    table = NgramTable(1 << 10, k=k, n_max=1, **options)
    table.update(torch.arange(VOCAB)[:, None], ids=ids, probs=probs)
    return table


Verify = Callable[[Tensor, Draft, np.ndarray, np.ndarray], thrifty.drafting.Verified]


def two_tokens(
    logits: Tensor, table: NgramTable, tree: DraftTree, verify: Verify, batch: int, seed: int,
    mode: str = "sample",
) -> np.ndarray:  # fmt: skip
    """The first two tokens after token 0 of `batch` sequences; a second step where one gave one."""
    emitted = np.full((batch, tree.max_depth + 2), -1)
    lengths, left = np.zeros(batch, np.int64), np.arange(batch)
    last = np.zeros((batch, 1), np.int32)
    while len(left):
        seeds = seed + left
        draft = table.draft(last[left], tree=tree, mode=mode, seed=seeds, offset=lengths[left])
        rows = logits[torch.from_numpy(draft.tokens).clamp_min(0).long()]
        result = verify(rows, draft, seeds, lengths[left])
        tokens, count = result.tokens.numpy(), result.lengths.numpy()
        for i in range(tokens.shape[1]):
            live = left[i < count]
            emitted[live, lengths[live] + i] = tokens[i < count, i]
        lengths[left] += count
        left = left[lengths[left] < 2]
        last[left, 0] = emitted[left, 0]
    return emitted[:, :2]


def joint_law(probs: Tensor) -> np.ndarray:
    """(V, V): of the two tokens after token 0, by p(x | previous) in float64."""
    p = probs.double().numpy()
    return p[0][:, None] * p


def count_pairs(pairs: np.ndarray) -> np.ndarray:
    return np.bincount(pairs[:, 0] * VOCAB + pairs[:, 1], minlength=VOCAB**2)
