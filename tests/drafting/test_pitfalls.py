"""What went wrong in other engines. Each test shows the wrong law by enumeration, or the behaviour
that fails, and that the ops here do the right thing.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

import thrifty
from thrifty.reference.drafting_laws import (
    Choices,
    Node,
    accepts,
    grow,
    law,
    recursive_rejection,
    target_only,
)

P = (0.05, 0.6, 0.35)
Q = {0: 0.5, 2: 0.5}


def total_variation(found: dict, p: Sequence[float]) -> float:
    return sum(abs(found.get(i, 0.0) - weight) for i, weight in enumerate(p)) / 2


def emitted(step: Callable[[Choices], int]) -> dict:
    return law(step)


def drafted(tokens: list[list[int]], q: Any = None, parents: Any = None) -> thrifty.Draft:
    """One node 0 with the given children, for a batch."""
    batch, count = len(tokens), len(tokens[0]) + 1
    ids = np.full((batch, count), 0, np.int32)
    ids[:, 1:] = tokens
    full = lambda value: np.full((batch, count), value, np.int32)
    first, following, depths = full(-1), full(-1), full(1)
    first[:, 0], depths[:, 0] = 1, 0
    following[:, 1:-1] = np.arange(2, count)
    q_ids, q_values = np.full((batch, count, 4), -1, np.int32), np.zeros((batch, count, 4))
    for i, (token, weight) in enumerate((q or {}).items()):
        q_ids[:, 0, i], q_values[:, 0, i] = token, weight
    return thrifty.Draft(
        tokens=ids, parents=full(0), first_child=first, next_sibling=following, depths=depths,
        slots=full(0), ancestors=np.zeros((batch, count, 1), np.int64),
        sizes=np.full(batch, count, np.int32), q_ids=q_ids, q=q_values.astype(np.float32),
        max_depth=1, sampled=q is not None,
    )  # fmt: skip


def many(p: Sequence[float], nodes: int, batch: int) -> torch.Tensor:
    """The same row of logits for all nodes of all sequences."""
    return torch.tensor(p).log().expand(batch, nodes, -1).contiguous()


def first_tokens(
    p: Sequence[float], draft: thrifty.Draft, rule: str, seed: int = 3
) -> torch.Tensor:
    batch = len(draft.tokens)
    verified = thrifty.verify_tree(
        many(p, draft.tokens.shape[1], batch), draft, rule=rule, seed=seed,
        offset=torch.arange(batch),
    )  # fmt: skip
    return verified.tokens[:, 0].long()


def assert_law(tokens: torch.Tensor, p: Sequence[float]) -> None:
    """Within 6 standard errors of each probability."""
    counts = torch.bincount(tokens, minlength=len(p)).double() / len(tokens)
    expected = torch.tensor(p, dtype=torch.float64)
    error = (expected * (1 - expected) / len(tokens)).sqrt()
    assert ((counts - expected).abs() <= 6 * error + 1e-12).all(), counts


# ---- 1. a token of probability 0 is accepted by a coin of 0


def test_impossible_tokens_are_never_accepted() -> None:
    peer = lambda coin, p, q: coin <= p / q
    assert peer(0.0, 0.0, 0.5)
    assert not accepts(0.0, 0.0, 0.5)
    p = (0.0, 0.4, 0.6)
    draft = drafted([[0, 2]] * 20000, {0: 0.9, 2: 0.1})
    for rule in ("recursive", "target"):
        tokens = first_tokens(p, draft, rule)
        assert (tokens != 0).all()
    assert (first_tokens((0.1, 0.3, 0.6), drafted([[0]] * 20000), "target") == 0).any()


def test_tokens_cut_by_top_p_are_never_accepted() -> None:
    draft = drafted([[0]] * 5000, {0: 1.0})
    verified = thrifty.verify_tree(
        many(P, 2, 5000), draft, seed=1, offset=torch.arange(5000), top_p=0.9, rule="recursive"
    )
    assert (verified.tokens[:, 0] != 0).all()


# ---- 2. siblings with one token: padding with token 0, and a cumulative rule


def cumulative(choices: Choices, p: Sequence[float], children: Sequence[int]) -> int:
    """A coin against the growing sum of the children's p, as tree kernels of peers do."""
    total = 0.0
    for child in children:
        rest = 1 - total
        if rest <= 0 or choices.flip(min(1.0, p[child] / rest)):
            return child
        total += p[child]
    left = [0.0 if i in children else weight for i, weight in enumerate(p)]
    return choices.pick(left)


def test_duplicate_siblings_change_the_cumulative_rule() -> None:
    wrong = emitted(lambda choices: cumulative(choices, P, [1, 0, 0, 0]))
    assert [wrong[i] for i in range(3)] == pytest.approx([0.15, 0.6, 0.25])
    root = Node(-1, {}, [Node(1), Node(0), Node(0), Node(0)])
    right = emitted(lambda choices: target_only(choices, P, root)[1])
    assert total_variation(right, P) < 1e-12
    assert_law(first_tokens(P, drafted([[1, 0, 0, 0]] * 100_000), "target"), P)


def test_empty_slots_are_no_tokens() -> None:
    """A node that the table does not know has no children; none is made up of token 0."""
    table = thrifty.NgramTable(256)
    table.observe_tokens([5, 6, 7])
    draft = table.draft([[5]], tree=thrifty.DraftTree.default(16))
    assert draft.tokens[0, : draft.sizes[0]].tolist() == [5, 6, 7]
    assert (draft.tokens[0, draft.sizes[0] :] == -1).all()
    unknown = table.draft([[9]], tree=thrifty.DraftTree.default(16))
    assert unknown.sizes.tolist() == [1]


# ---- 3. the ratio test with another q than the one that was sampled from


def test_another_q_is_another_law() -> None:
    """The generator tempers q before it draws, and hands out the q from before."""
    sharp = {0: 0.9, 2: 0.1}

    def program(choices: Choices, told: dict) -> int:
        root = grow(choices, ((),), lambda prefix: sharp, ())
        root.q = told
        return recursive_rejection(choices, P, root)[1]

    assert total_variation(emitted(lambda choices: program(choices, sharp)), P) < 1e-12
    assert total_variation(emitted(lambda choices: program(choices, Q)), P) > 0.1


@pytest.mark.parametrize("inv_temp", [1.0, 2.5])
def test_q_is_what_children_are_drawn_from(inv_temp: float) -> None:
    table = thrifty.NgramTable(256, k=4)
    table.update([[7]], ids=[[1, 2, 3]], probs=[[0.5, 0.3, 0.1]])
    batch = 60_000
    draft = table.draft(
        np.full((batch, 1), 7), tree=thrifty.DraftTree.chain(1), inv_temp=inv_temp, seed=5,
        offset=np.arange(batch),
    )  # fmt: skip
    exact = np.array([0.5, 0.3, 0.1]) ** inv_temp
    exact /= exact.sum()
    np.testing.assert_allclose(draft.q[0, 0, :3], exact, rtol=1e-6)
    law_of_four = [0.0, *exact]
    assert_law(torch.from_numpy(draft.tokens[:, 1]).long(), law_of_four)


# ---- 4. the first drafted token is taken without a test


def test_first_token_is_tested() -> None:
    def unverified(choices: Choices) -> int:
        return grow(choices, ((),), lambda prefix: Q, ()).children[0].token

    assert total_variation(emitted(unverified), P) > 0.3
    draft = drafted([[2]] * 2000, {2: 1.0})
    assert (first_tokens((0.0, 1.0, 0.0), draft, "recursive") == 1).all()
    assert_law(first_tokens(P, drafted([[0]] * 100_000, {0: 1.0}), "recursive"), P)


# ---- 5. processors on a prefix that is not the node's own: tests/hf/test_speculative_sampling.py

# ---- 6. rows that are no distribution


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_bad_logits_are_an_error(bad: float) -> None:
    logits = many(P, 2, 2)
    logits[1, 0, 1] = bad
    with pytest.raises(ValueError, match=r"verify_tree: .*expected .*, got"):
        thrifty.verify_tree(logits, drafted([[1], [1]], {1: 1.0}), seed=1)
    logits[1, 0] = -torch.inf
    with pytest.raises(ValueError, match=r"verify_tree: .*expected .*, got"):
        thrifty.verify_tree(logits, drafted([[1], [1]], {1: 1.0}), seed=1)


# ---- 7. results that depend on the place in the batch


def test_place_in_the_batch_does_not_matter() -> None:
    batch, vocabulary = 6, 50
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 8, vocabulary, generator=generator)
    table = thrifty.NgramTable(1024)
    table.observe_tokens(torch.randint(vocabulary, (400,), generator=generator).numpy())
    tails = torch.randint(vocabulary, (batch, 3), generator=generator).numpy()
    seeds, offsets = torch.arange(10, 10 + batch), torch.arange(100, 100 + batch)
    tree = thrifty.DraftTree.default(8)

    def outcome(order: list[int]) -> list[list[int]]:
        draft = table.draft(
            tails[order], tree=tree, seed=seeds[order].numpy(), offset=offsets[order].numpy()
        )
        verified = thrifty.verify_tree(
            logits[order], draft, seed=seeds[order], offset=offsets[order]
        )
        return verified.tokens.tolist()

    together = outcome(list(range(batch)))
    assert outcome([4, 2]) == [together[4], together[2]]
    assert [outcome([i])[0] for i in range(batch)] == together


# ---- 8. processes that must agree draw from generators of their own


def test_noise_and_tables_are_functions_of_their_arguments() -> None:
    """Ranks with the same updates and seeds draft the same, whatever else they have drawn."""

    def draft(noise: int) -> list:
        torch.manual_seed(noise)
        np.random.seed(noise)  # noqa: NPY002
        table = thrifty.NgramTable(1024)
        table.observe_tokens([1, 2, 3, 1, 2, 4, 1, 2, 5, 3, 1])
        drawn = table.draft([[1, 2]], tree=thrifty.DraftTree.default(12), seed=7, offset=3)
        return [drawn.tokens.tolist(), drawn.q.tolist()]

    assert draft(1) == draft(2)


# ---- 9. the table changes between drafting and verification


def test_a_draft_keeps_the_q_that_it_was_drawn_from() -> None:
    """Other threads may learn meanwhile: the test uses the draft's own numbers."""
    table = thrifty.NgramTable(256, k=4)
    table.update([[9]], ids=[[0, 2]], probs=[[0.5, 0.5]])
    batch = 100_000
    draft = table.draft(
        np.full((batch, 1), 9), tree=thrifty.DraftTree.chain(1), seed=5, offset=np.arange(batch)
    )
    before = draft.q.copy()
    for _ in range(20):
        table.update([[9]], ids=[[1]], probs=[[1.0]])
    table.clear()
    np.testing.assert_array_equal(draft.q, before)
    assert_law(first_tokens(P, draft, "recursive", seed=5), P)


# ---- 10. children are dropped or reordered by what was drawn


def test_dropping_a_child_by_its_token_is_another_law() -> None:
    """Pruning improbable children leaves the ratio test wrong, and the target-only rule right."""

    def program(choices: Choices, rule: Callable) -> int:
        root = grow(choices, ((), ()), lambda prefix: {0: 0.2, 1: 0.3, 2: 0.5}, ())
        root.children = [child for child in root.children if root.q[child.token] > 0.25]
        return rule(choices, P, root)[1]

    wrong = emitted(lambda choices: program(choices, recursive_rejection))
    right = emitted(lambda choices: program(choices, target_only))
    assert total_variation(wrong, P) > 1e-3
    assert total_variation(right, P) < 1e-12
