"""Verification of one fixed draft: the law of what it emits, given the draft, is the rule's own.

Stronger than losslessness, which averages over drafts: every acceptance and every residual counts.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

import thrifty
from thrifty import DraftTree, NgramTable
from thrifty.reference import drafting as reference
from thrifty.reference.drafting_laws import (
    RULES,
    Choices,
    Prefix,
    block_walk,
    law,
    walk,
)

VOCABULARY, WALKS = 7, 60_000
ALPHA = 1e-6
CUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "cuts": {"temperature": 1.2, "top_k": 5, "top_p": 0.9, "min_p": 0.05},
}


def drafted(tree: DraftTree, mode: str = "sample") -> thrifty.Draft:
    table = NgramTable(256, k=4, n_max=2)
    generator = torch.Generator().manual_seed(4)
    p = torch.rand(VOCABULARY, VOCABULARY, generator=generator) ** 2
    probs, ids = (p / p.sum(1, keepdim=True)).topk(4)
    table.update(torch.arange(VOCABULARY)[:, None], ids=ids, probs=probs)
    return table.draft([[3]], tree=tree, mode=mode, seed=11).trimmed()


def logits_of(draft: thrifty.Draft) -> torch.Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(1, draft.tokens.shape[1], VOCABULARY, generator=generator) * 1.2


def target_of(draft: thrifty.Draft, logits: torch.Tensor, cuts: dict) -> Callable[[Prefix], list]:
    """p after each path of the tree, which is what the logits' rows are."""
    rows = reference.target_probabilities(logits[0], **cuts).tolist()
    at: dict[Prefix, list[float]] = {}
    paths: list[Prefix] = []
    for node in range(int(draft.sizes[0])):
        before = paths[draft.parents[0, node]] if node else ()
        paths.append((*before, int(draft.tokens[0, node])) if node else ())
        at[paths[-1]] = rows[node]
    return lambda prefix: at[prefix]


def repeated(draft: thrifty.Draft, count: int) -> thrifty.Draft:
    arrays = {
        name: np.repeat(value, count, 0)
        for name in draft.__dataclass_fields__
        if isinstance(value := getattr(draft, name), np.ndarray)
    }
    return thrifty.Draft(**arrays, max_depth=draft.max_depth, sampled=draft.sampled)


def assert_law(tokens: torch.Tensor, expected: dict[Prefix, float]) -> None:
    """tokens: (N, D), -1 pads. Bins of expected < 10 are merged."""
    found: dict[Prefix, int] = {}
    rows, counts = tokens.unique(dim=0, return_counts=True)
    for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
        found[tuple(x for x in row if x >= 0)] = count
    assert found.keys() <= expected.keys()
    total = sum(found.values())
    pairs = [(found.get(key, 0), p * total) for key, p in expected.items()]
    big = [pair for pair in pairs if pair[1] >= 10]
    rest = [pair for pair in pairs if pair[1] < 10]
    big.append((sum(n for n, _ in rest), sum(e for _, e in rest)))
    statistic = sum((n - e) ** 2 / e for n, e in big if e > 0)
    assert chi2.sf(statistic, len(big) - 1) > ALPHA


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("rule", ["recursive", "target"])
def test_tree(rule: str, cuts: str) -> None:
    draft = drafted(DraftTree([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]))
    assert draft.sizes[0] == 8
    logits = logits_of(draft)
    root = reference.tree_of(draft)
    target = target_of(draft, logits, CUTS[cuts])
    name = {"recursive": "sparse_recursive_rejection", "target": "target_only"}[rule]
    expected = law(lambda choices: walk(choices, target, (), root, RULES[name]))
    verified = thrifty.verify_tree(
        logits.expand(WALKS, -1, -1), repeated(draft, WALKS), rule=rule, seed=5,
        offset=torch.arange(WALKS) * 16, **CUTS[cuts],
    )  # fmt: skip
    assert_law(verified.tokens, expected)


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("method", ["token", "block"])
def test_chain(method: str, dense: bool, cuts: str) -> None:
    draft = drafted(DraftTree.chain(3))
    logits = logits_of(draft)
    root, target = reference.tree_of(draft), target_of(draft, logits, CUTS[cuts])

    def program(choices: Choices) -> Prefix:
        if method == "block":
            return block_walk(choices, target, (), root)
        return walk(choices, target, (), root, RULES["recursive_rejection"])

    given: dict[str, Any] = {
        "q": torch.from_numpy(draft.q[:, :3]),
        "q_ids": torch.from_numpy(draft.q_ids[:, :3]),
    }
    if dense:
        q = torch.zeros(1, 3, VOCABULARY)
        given = {"q": q.scatter(2, given["q_ids"].long(), given["q"])}
    verified = thrifty.verify_chain(
        logits.expand(WALKS, -1, -1),
        torch.from_numpy(draft.tokens[:, 1:]).expand(WALKS, -1).contiguous(),
        **{name: value.expand(WALKS, -1, -1).contiguous() for name, value in given.items()},
        method=method, seed=6, offset=torch.arange(WALKS) * 16, **CUTS[cuts],
    )  # fmt: skip
    assert_law(verified.tokens, law(program))


def test_row_stats() -> None:
    logits = torch.randn(9, 50)
    logits[2, 7:] = -torch.inf
    for cuts in CUTS.values():
        lse, ids, probs, *_ = reference.row_stats(logits, 6, **cuts)
        got = thrifty.row_stats(logits, 6, **cuts)
        torch.testing.assert_close(got.lse.double(), lse, rtol=1e-5, atol=1e-5)
        assert torch.equal(got.topk_ids, ids)
        torch.testing.assert_close(got.topk_probs.double(), probs, rtol=1e-5, atol=1e-6)


def test_table() -> None:
    """A stream of texts and distributions: the same contexts, means and q.

    k is all there are: at a cut, means that are equal but for rounding would decide.
    """
    generator = np.random.default_rng(0)
    native = NgramTable(1 << 13, k=6, n_max=3, count_cap=4)
    plain = reference.NgramTable(6, 1, 3, 4)
    text = generator.integers(6, size=300).tolist()
    native.observe_tokens(text)
    plain.observe_tokens(text)
    for _ in range(200):
        tail = generator.integers(6, size=3).tolist()
        ids = generator.permutation(6)[:3].tolist()
        probs = np.sort(generator.dirichlet([1, 1, 1]))[::-1].astype(np.float32).tolist()
        native.update([tail], ids=[ids], probs=[probs])
        plain.update(tail, ids, probs)
    for context in plain.means:
        tail = [0] * (3 - len(context)) + list(context)
        draft = native.draft([tail], [len(context)], DraftTree.chain(1), inv_temp=1.5)
        pairs = zip(draft.q_ids[0, 0].tolist(), draft.q[0, 0].tolist(), strict=True)
        assert {i: q for i, q in pairs if i >= 0} == pytest.approx(plain.q(context, 1.5), abs=1e-5)
