"""tree_merge: paths of two drafts in one tree, each token sequence once, within a budget."""

import random
from typing import Any

import numpy as np
import pytest
import torch

import thrifty
from helpers import assert_rejects
from thrifty import Draft, DraftTree, NgramTable, tree_merge


def table_of(texts: list[list[int]]) -> NgramTable:
    table = NgramTable(1 << 12, n_max=3)
    for text in texts:
        table.observe_tokens(text)
    return table


def drafts(seed: int, batch: int = 3, nodes: int = 20) -> tuple[Draft, Draft]:
    """Two sources that agree in part."""
    draws = random.Random(seed)
    text = [draws.randrange(6) for _ in range(300)]
    tails = [[draws.randrange(6) for _ in range(3)] for _ in range(batch)]
    tables = table_of([text[:200]]), table_of([text[100:]])
    trees = DraftTree.default(nodes), DraftTree.from_rank_acceptance([0.5, 0.4, 0.2], nodes)
    a, b = (
        table.draft(tails, tree=tree, seed=seed)
        for table, tree in zip(tables, trees, strict=True)
    )  # fmt: skip
    return a, b


def paths(draft: Draft, row: int) -> list[tuple[int, ...]]:
    """Of each valid node the tokens from node 0 on."""
    found: list[tuple[int, ...]] = []
    for node in range(int(draft.sizes[row])):
        parent = draft.parents[row, node]
        found.append((*(found[parent] if node else ()), int(draft.tokens[row, node])))
    return found


def assert_well_formed(draft: Draft) -> None:
    """Links, depths and masks say the same tree; siblings are distinct."""
    for row in range(len(draft.tokens)):
        size = int(draft.sizes[row])
        assert len(set(paths(draft, row))) == size
        assert (draft.tokens[row, size:] == -1).all()
        children: dict[int, list[int]] = {}
        for node in range(1, size):
            parent = int(draft.parents[row, node])
            assert parent < node
            assert draft.depths[row, node] == draft.depths[row, parent] + 1
            children.setdefault(parent, []).append(node)
        assert (np.diff(draft.depths[row, :size]) >= 0).all()
        for node in range(size):
            linked, child = [], int(draft.first_child[row, node])
            while child >= 0:
                linked.append(child)
                child = int(draft.next_sibling[row, child])
            assert linked == children.get(node, [])
            bits = {
                64 * w + bit
                for w, word in enumerate(draft.ancestors[row, node].tolist())
                for bit in range(64)
                if (word % 2**64) >> bit & 1
            }
            line, at = {node}, node
            while at:
                at = int(draft.parents[row, at])
                line.add(at)
            assert bits == line


@pytest.mark.parametrize("seed", range(4))
def test_all_paths_of_both(seed: int) -> None:
    a, b = drafts(seed)
    merged = tree_merge(a, b, 100)
    assert_well_formed(merged)
    for row in range(3):
        assert set(paths(merged, row)) == {*paths(a, row), *paths(b, row)}
    assert not merged.sampled
    assert merged.max_depth == max(a.max_depth, b.max_depth)
    assert (merged.q == 0).all()


@pytest.mark.parametrize("budget", [1, 2, 7, 19, 25])
def test_budget_takes_a_before_b(budget: int) -> None:
    a, b = drafts(7)
    merged = tree_merge(a, b, budget)
    assert_well_formed(merged)
    assert merged.tokens.shape == (3, budget)
    for row in range(3):
        ours, first = set(paths(merged, row)), paths(a, row)
        assert len(ours) == min(budget, len({*first, *paths(b, row)}))
        assert ours >= set(first[:budget])


def test_scores_decide() -> None:
    a, b = drafts(3)
    low, high = np.full(a.tokens.shape, -5.0), np.full(b.tokens.shape, -1.0)
    low[:, 0] = high[:, 0] = 0
    merged = tree_merge(a, b, 8, scores_a=low, scores_b=torch.from_numpy(high))
    assert_well_formed(merged)
    for row in range(3):
        theirs = paths(b, row)
        assert set(paths(merged, row)) >= set(theirs[:8]) or len(theirs) < 8


def test_more_than_64_nodes() -> None:
    a, b = drafts(5, nodes=120)
    merged = tree_merge(a, b, 200)
    assert merged.ancestors.shape[-1] == 4
    assert_well_formed(merged)


def test_merged_trees_are_verified() -> None:
    """Followed as long as the model's own choice is a node; tensors do as well as arrays."""
    a, b = drafts(2)
    merged = tree_merge(a.to("cpu"), b.to("cpu"), 40)
    logits = torch.randn(3, 40, 6)
    verified = thrifty.verify_tree(logits, merged, temperature=0.0)
    for row in range(3):
        known = {path: node for node, path in enumerate(paths(merged, row))}
        path, expected = (int(merged.tokens[row, 0]),), []
        while path in known:
            expected.append(int(logits[row, known[path]].argmax()))
            path = (*path, expected[-1])
        assert verified.tokens[row, : len(expected)].tolist() == expected
        assert int(verified.lengths[row]) == len(expected)


def test_errors() -> None:
    a, b = drafts(1)
    assert_rejects("budget", tree_merge, a, b, 0)
    assert_rejects("budget", tree_merge, a, b, 1025)
    assert_rejects("b", tree_merge, a, drafts(1, batch=2)[1], 9)
    other: Any = table_of([[1, 2, 3]]).draft([[1], [2], [3]], tree=DraftTree.chain(2))
    other.tokens[:, 0] = 77
    assert_rejects("b", tree_merge, a, other, 9)
    assert_rejects("scores_a", tree_merge, a, b, 9, scores_a=np.zeros((2, 2)))
    assert_rejects("scores_b", tree_merge, a, b, 9, scores_b=np.full(b.tokens.shape, np.nan))


def test_a_child_is_worth_no_more_than_its_parent() -> None:
    """Scores that grow along a path: the budget still takes parents first."""
    a, b = drafts(6)
    rising = np.broadcast_to(np.arange(a.tokens.shape[1], dtype=np.float64), a.tokens.shape)
    for budget in (3, 6, 11):
        assert_well_formed(tree_merge(a, b, budget, scores_a=rising, scores_b=rising))
