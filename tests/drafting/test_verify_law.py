"""The emitted tokens have the model's law: chi-square on walks of two tokens, 2^20 for each rule,
2^17 for each further tree, form and filter; of the first token and of the first two together.

alpha is 1e-4 over all tests of this file: each p-value is compared with 1e-4 / TESTS. Seeds are
fixed, so a test that passes once passes always.
"""

import numpy as np
import pytest
import torch
from laws import (
    VOCAB,
    Verify,
    count_pairs,
    joint_law,
    learned_table,
    markov_logits,
    p_value,
    two_tokens,
)
from torch import Tensor

import thrifty
from thrifty import Draft, DraftTree

ALPHA, TESTS = 1e-4, 24
MANY, SOME, BATCH = 2**20, 2**17, 2**16

TREES = {
    "chain": DraftTree.chain(3),
    "wide": DraftTree([(0,), (1,), (2,), (0, 0), (0, 1), (1, 0)]),
    "all candidates": DraftTree([(i,) for i in range(8)]),  # more slots than candidates
}
FILTERS = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.1},
    "all": {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.02},
}


def target(logits: Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
           min_p: float = 0.0) -> Tensor:  # fmt: skip
    """The law in float64, tokens sorted and cut as the docstring of row_stats says."""
    p = torch.softmax(logits.double() / temperature, -1)
    order = p.argsort(-1, descending=True)
    p = p.gather(-1, order)
    if top_k:
        p[..., top_k:] = 0
    p /= p.sum(-1, keepdim=True)
    p = torch.where(p.cumsum(-1) - p < top_p, p, 0.0)
    p = torch.where(p >= min_p * p[..., :1], p, 0.0)
    p /= p.sum(-1, keepdim=True)
    return torch.zeros_like(p).scatter(-1, order, p)


def by_tree(rule: str, **filters: float) -> Verify:
    def verify(rows: Tensor, draft: Draft, seeds: np.ndarray, offsets: np.ndarray):
        return thrifty.verify_tree(
            rows, draft, rule=rule, seed=torch.from_numpy(seeds),
            offset=torch.from_numpy(offsets), k=0, **filters,
        )  # fmt: skip

    return verify


def check(verify: Verify, tree: DraftTree, mode: str = "sample", law: dict | None = None,
          walks: int = SOME) -> None:  # fmt: skip
    logits = markov_logits()
    table = learned_table(logits, 1.0)
    counts = np.zeros(VOCAB**2, np.int64)
    for part in range(walks // BATCH):
        counts += count_pairs(
            two_tokens(logits, table, tree, verify, BATCH, seed=part * BATCH, mode=mode)
        )
    joint = joint_law(target(logits, **(law or {})))
    first = counts.reshape(VOCAB, VOCAB).sum(1)
    assert p_value(first, joint.sum(1)) > ALPHA / TESTS
    assert p_value(counts, joint.reshape(-1)) > ALPHA / TESTS


@pytest.mark.parametrize("tree", TREES)
def test_recursive_rejection(tree: str) -> None:
    check(by_tree("recursive"), TREES[tree], walks=MANY if tree == "wide" else SOME)


@pytest.mark.parametrize("mode", ["sample", "greedy"])
def test_target_rule_is_exact_for_any_children(mode: str) -> None:
    walks = MANY if mode == "greedy" else SOME
    check(by_tree("target"), TREES["wide"], mode=mode, walks=walks)


@pytest.mark.parametrize("name", [name for name in FILTERS if name != "plain"])
def test_filters_come_first(name: str) -> None:
    check(by_tree("recursive", **FILTERS[name]), TREES["wide"], law=FILTERS[name])


@pytest.mark.parametrize("method", ["token", "block"])
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_chains(method: str, form: str) -> None:
    def verify(rows: Tensor, draft: Draft, seeds: np.ndarray, offsets: np.ndarray):
        made = draft.to()
        ids, q = made.q_ids[:, :-1].contiguous(), made.q[:, :-1].contiguous()
        if form == "dense":
            padded = torch.zeros(*q.shape[:2], VOCAB + 1)
            padded.scatter_(-1, torch.where(ids < 0, VOCAB, ids).long(), q)
            ids, q = None, padded[..., :VOCAB].contiguous()
        return thrifty.verify_chain(
            rows, made.tokens[:, 1:], made.sizes - 1, q=q, q_ids=ids, method=method,
            seed=torch.from_numpy(seeds), offset=torch.from_numpy(offsets), k=0,
        )  # fmt: skip

    check(verify, TREES["chain"], walks=MANY if form == "sparse" else SOME)


def test_a_q_that_was_not_sampled_from_is_noticed() -> None:
    """The pitfall of transformers #47932: q before the temperature of the draft was applied. These
    tests see it."""

    def verify(rows: Tensor, draft: Draft, seeds: np.ndarray, offsets: np.ndarray):
        q = np.sqrt(draft.q)
        draft.q = q / q.sum(-1, keepdims=True).clip(1e-9)
        return by_tree("recursive")(rows, draft, seeds, offsets)

    with pytest.raises(AssertionError):
        check(verify, TREES["wide"])


def test_target_rule_gives_the_tokens_of_sampling_one_by_one() -> None:
    """Bit for bit, with the same seeds and positions, whatever is drafted."""
    logits, batch = markov_logits(), 2000
    table = learned_table(logits, 1.0)
    pairs = two_tokens(logits, table, TREES["wide"], by_tree("target"), batch, seed=5)
    seeds, last = torch.arange(5, 5 + batch), torch.zeros(batch, dtype=torch.long)
    for position in range(2):
        last = thrifty.row_stats(logits[last], 0, seed=seeds, offset=position * torch.ones_like(seeds)).draw.long()  # noqa: E501  # fmt: skip
        assert (last.numpy() == pairs[:, position]).all()


def test_recursive_rejection_accepts_more_than_the_target_rule() -> None:
    """What sampling with q buys: section D.3 of the evidence, flat p, q close to it."""
    logits = markov_logits(scale=0.7)
    table = learned_table(logits, 0.3)
    draft = table.draft(np.zeros((20_000, 1), np.int32), tree=DraftTree.chain(1),
                        seed=np.arange(20_000))  # fmt: skip
    rows = logits[torch.from_numpy(draft.tokens).clamp_min(0).long()]
    seeds, start = np.arange(20_000), np.zeros(20_000, np.int64)
    accepted = {
        rule: (by_tree(rule)(rows, draft, seeds, start).lengths == 2).float().mean().item()
        for rule in ("recursive", "target")
    }
    p, q = target(logits)[0], torch.zeros(VOCAB)
    q[torch.from_numpy(draft.q_ids[0, 0]).long()] = torch.from_numpy(draft.q[0, 0])
    best = torch.minimum(p, q.double()).sum().item()  # Leviathan et al.: nothing can accept more
    assert abs(accepted["recursive"] - best) < 4 * (best * (1 - best) / 20_000) ** 0.5
    assert accepted["recursive"] > accepted["target"] + 0.2
