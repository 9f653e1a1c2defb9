"""DraftTree: shapes, builders, and what is no tree."""

import itertools
import random

import pytest

from thrifty import DraftTree


def expected_tokens(paths: tuple, chances: list[float]) -> float:
    total = 0.0
    for path in paths:
        worth = 1.0
        for rank in path:
            worth *= chances[rank]
        total += worth
    return total


def test_rank_acceptance_gives_the_best_tree() -> None:
    """Against all trees of 6 nodes with at most 3 ranks, by brute force."""
    chances = [0.6, 0.3, 0.2]
    pool = [path for depth in range(1, 6) for path in itertools.product(range(3), repeat=depth)]
    trees = {frozenset({()})}
    for _ in range(5):
        trees = {
            tree | {path}
            for tree in trees
            for path in pool
            if path not in tree and path[:-1] in tree
            and (path[-1] == 0 or (*path[:-1], path[-1] - 1) in tree)
        }  # fmt: skip
    best = max(expected_tokens(tuple(tree), chances) for tree in trees)
    found = DraftTree.from_rank_acceptance(chances, 6)
    assert found.size == 6
    assert found.expected_tokens(chances) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("nodes", [1, 2, 8, 32, 80, 625])
def test_default_sizes(nodes: int) -> None:
    tree = DraftTree.default(nodes)
    assert tree.size == nodes
    assert (tree.parents[1:] < range(1, nodes)).all()
    assert (tree.parents[1:] == sorted(tree.parents[1:])).all()


def test_nested_trees_share_their_nodes() -> None:
    tree = DraftTree.default(80)
    kept: set = set()
    for nodes in (1, 8, 16, 32, 80, 100):
        smaller = tree.nested(nodes)
        assert smaller.size == min(nodes, 80)
        assert kept <= set(smaller.paths)
        kept = set(smaller.paths)
    assert tree.nested(8) == DraftTree.default(8)


def test_counts() -> None:
    tree = DraftTree([(0,), (1,), (2,), (0, 0), (1, 0)])
    counts = [100, 10, 0, 30, 9, 0]  # rank 2 was accepted more often than rank 1
    assert DraftTree.from_counts(tree, counts, 4).paths == ((), (0,), (1,), (0, 0))
    assert DraftTree.from_counts(tree, counts, 6) == tree
    with pytest.raises(ValueError, match=r"counts"):
        DraftTree.from_counts(tree, [1, 2], 2)


def test_max_depth() -> None:
    tree = DraftTree.from_rank_acceptance([0.9, 0.5], 20, max_depth=3)
    assert tree.max_depth == 3
    assert tree.size == 15  # all there are: 1 + 2 + 4 + 8


def test_order_of_paths_does_not_matter() -> None:
    paths = list(DraftTree.default(40).paths[1:])
    shuffled = random.Random(0).sample(paths, len(paths))
    assert DraftTree(shuffled) == DraftTree(paths)


@pytest.mark.parametrize(
    "paths, scores, message",
    [
        ([(0, 0)], None, "the parent"),
        ([(1,)], None, "the sibling before"),
        ([(0,), (0,)], None, "each path once"),
        ([(0,), (-1,)], None, "ranks from 0"),
        ([()], None, "ranks from 0"),
        ([(0,), (0, 0)], [1.0, 2.0], "at most the parent's"),
        ([(0,)], [float("nan")], "at most the parent's"),
        ([(0,)], [1.0, 2.0], "one for each"),
        ([(i,) for i in range(1024)], None, "at most 1024"),
    ],
)
def test_no_tree(paths: list, scores: list | None, message: str) -> None:
    with pytest.raises(ValueError, match=f"^DraftTree: .*{message}"):
        DraftTree(paths, scores)


@pytest.mark.parametrize("acceptance", [[], [0.5, 0.6], [1.5], [float("nan")]])
def test_bad_acceptance(acceptance: list) -> None:
    with pytest.raises(ValueError, match=r"^DraftTree: acceptance"):
        DraftTree.from_rank_acceptance(acceptance, 8)
