"""DraftTree, the static shape of a draft, and Draft, the trees filled for a batch. NumPy only."""

import heapq
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from thrifty._arguments import named

# Chance that a node's children of rank 0, 1, ... are accepted, measured with sampled drafts on a
# small Llama at temperature 0.6 and recursive rejection; sampled children fail more alike than
# the best ones in order, so the vector falls quickly and trees come out deep and narrow.
SAMPLED_RANKS = (0.56, 0.08, 0.03, 0.015, 0.01, 0.007, 0.005, 0.004, 0.003, 0.002)
MAX_NODES = 1024  # of a tree: what the kernels' scratch memory holds


def _fail(what: str, expected: str, got: object) -> None:
    raise ValueError(f"DraftTree: {what}: expected {expected}, got {got}")


class DraftTree:
    """The shape of a draft: which nodes exist, and in which order a smaller tree would take them.

    Node 0 is the last committed token, the others are in breadth-first order, children of one node
    side by side in the order in which they are drawn (their rank). A path is the tuple of ranks
    from node 0 to a node; node 0's is ().

    Args:
        paths: the path of every node but node 0, in any order; prefix-closed, ranks without gaps.
        scores: how much each is worth, in the order of `paths`; `nested(n)` keeps the best n.
            A child's score is at most its parent's. None: shallow nodes are worth more.

    Raises:
        ValueError: a path whose parent or elder sibling is missing, a path given twice, a score
            that is not a number or above its parent's, more than 1024 nodes.

    Example::

        >>> tree = thrifty.DraftTree([(0,), (1,), (0, 0)])
        >>> tree.size, tree.max_depth, tree.parents.tolist()
        (4, 2, [-1, 0, 0, 1])
        >>> thrifty.DraftTree.default(80).size
        80

    STAND, arXiv 2506.04708, section 3; Token Recycling, arXiv 2408.08696, section 3.
    """

    @named
    def __init__(
        self, paths: Iterable[Sequence[int]], scores: Iterable[float] | None = None
    ) -> None:
        given = [tuple(int(rank) for rank in path) for path in paths]
        worth = [1.0 / (1 + len(path)) for path in given] if scores is None else list(scores)
        if len(worth) != len(given):
            _fail("scores", f"one for each of {len(given)} paths", len(worth))
        if len(given) + 1 > MAX_NODES:
            _fail("paths", f"at most {MAX_NODES} nodes", len(given) + 1)
        of = dict(zip(given, worth, strict=True))
        if len(of) != len(given):
            _fail("paths", "each path once", f"{len(given) - len(of)} again")
        of[()] = float("inf")
        for path in given:
            if not path or path[-1] < 0:
                _fail("paths", "ranks from 0", path)
            if path[:-1] not in of:
                _fail("paths", f"{path[:-1]}, the parent of {path}", "a tree without it")
            if path[-1] > 0 and (*path[:-1], path[-1] - 1) not in of:
                elder = (*path[:-1], path[-1] - 1)
                _fail("paths", f"{elder}, the sibling before {path}", "a tree without it")
            if not of[path] <= of[path[:-1]]:
                _fail("scores", f"at most the parent's for {path}", of[path])
        self.paths: tuple[tuple[int, ...], ...] = tuple(sorted(of, key=lambda p: (len(p), p)))
        index = {path: i for i, path in enumerate(self.paths)}
        self.scores = np.array([of[path] for path in self.paths], np.float64)
        self.parents = np.array([-1] + [index[path[:-1]] for path in self.paths[1:]], np.int32)
        self.depths = np.array([len(path) for path in self.paths], np.int32)
        self.ranks = np.array([-1] + [path[-1] for path in self.paths[1:]], np.int32)
        self.children = np.bincount(self.parents[1:], minlength=self.size).astype(np.int32)

    @property
    def size(self) -> int:
        """Nodes, node 0 among them."""
        return len(self.paths)

    @property
    def max_depth(self) -> int:
        """Tokens of the longest path below node 0."""
        return int(self.depths[-1])

    @cached_property
    def native(self) -> Any:
        """The template as the native code reads it."""
        from thrifty import _native

        return _native.DraftTemplate(self.parents)

    @classmethod
    def chain(cls, length: int) -> "DraftTree":
        """`length` tokens in a row: needs no tree mask, so any attention can check it.

        >>> thrifty.DraftTree.chain(3).paths
        ((), (0,), (0, 0), (0, 0, 0))
        """
        if length < 0:
            _fail("length", "a number >= 0", length)
        return cls([(0,) * (depth + 1) for depth in range(length)])

    @classmethod
    def default(cls, nodes: int = 80) -> "DraftTree":
        """The best tree of `nodes` nodes for the rank acceptance measured on a small Llama.

        For another model measure: `from_counts` with the nodes that its runs accepted.
        """
        return cls.from_rank_acceptance(SAMPLED_RANKS, nodes)

    @classmethod
    def from_rank_acceptance(
        cls, acceptance: Sequence[float], nodes: int, max_depth: int | None = None
    ) -> "DraftTree":
        """The tree of `nodes` nodes with the largest expected accepted length.

        A node's chance to be on the accepted path is taken to be the product of its ranks' chances;
        a heap then finds the best nodes, which are prefix-closed by themselves.

        Args:
            acceptance: chance of a node's child of rank 0, 1, ...; in [0, 1], not increasing.
            nodes: size of the tree, node 0 included; fewer where the vector and max_depth end it.
            max_depth: the longest path; None is no limit.
        """
        chances = [float(chance) for chance in acceptance]
        if not chances or not all(0 <= chance <= 1 for chance in chances):
            _fail("acceptance", "probabilities", chances)
        if any(a < b for a, b in itertools.pairwise(chances)):
            _fail("acceptance", "a vector that does not increase", chances)
        if not 1 <= nodes <= MAX_NODES:
            _fail("nodes", f"1 to {MAX_NODES}", nodes)
        # (-worth, depth, path, the parent's worth): ties go to shallow nodes, then to low ranks.
        heap: list[tuple[float, int, tuple[int, ...], float]] = [(-chances[0], 1, (0,), 1.0)]
        paths: list[tuple[int, ...]] = []
        scores: list[float] = []
        while heap and len(paths) < nodes - 1:
            negative, depth, path, parent = heapq.heappop(heap)
            if negative == 0 or (max_depth is not None and depth > max_depth):
                continue
            paths.append(path)
            scores.append(-negative)
            heapq.heappush(heap, (negative * chances[0], depth + 1, (*path, 0), -negative))
            rank = path[-1] + 1
            if rank < len(chances):
                sibling = (-parent * chances[rank], depth, (*path[:-1], rank), parent)
                heapq.heappush(heap, sibling)
        return cls(paths, scores)

    @classmethod
    def from_counts(
        cls, tree: "DraftTree", counts: Sequence[float] | np.ndarray, nodes: int
    ) -> "DraftTree":
        """The `nodes` nodes of a large tree that were accepted most often, packed again.

        Args:
            tree: the tree that was run.
            counts: how often each of its nodes was on the accepted path (`Draft.slots` says which
                node of the tree a drafted node is); node 0's is ignored.
            nodes: size of the result, node 0 included.

        Ties go to the shallower node, then to the lower rank. A rank left out closes up: children
        are ranked by their order, and a child never counts more than its parent.
        """
        counted = np.asarray(counts, np.float64)
        if counted.shape != (tree.size,) or not (counted >= 0).all():
            _fail("counts", f"{tree.size} numbers >= 0", counted.shape)
        if not 1 <= nodes <= tree.size:
            _fail("nodes", f"1 to {tree.size}", nodes)
        worth = counted.copy()
        worth[0] = np.inf
        for node in range(1, tree.size):
            worth[node] = min(worth[node], worth[tree.parents[node]])
        kept = sorted(range(tree.size), key=lambda i: (-worth[i], tree.depths[i], i))[:nodes]
        new_path: dict[int, tuple[int, ...]] = {0: ()}
        taken: dict[int, int] = {}
        for node in sorted(kept):
            if node == 0:
                continue
            parent = int(tree.parents[node])
            rank = taken.get(parent, 0)
            taken[parent] = rank + 1
            new_path[node] = (*new_path[parent], rank)
        nodes_kept = [node for node in new_path if node]
        return cls([new_path[i] for i in nodes_kept], [worth[i] for i in nodes_kept])

    def nested(self, nodes: int) -> "DraftTree":
        """The best `nodes` nodes of this tree, for adaptive length: `nested(8)`, `nested(32)`, ...

        Nested sizes share their nodes: what `nested(8)` holds, `nested(32)` holds. Choose the size
        before anything is sampled (by past acceptance, say), then verification stays exact.
        """
        if nodes >= self.size:
            return self
        return DraftTree.from_counts(self, np.nan_to_num(self.scores, posinf=0.0), nodes)

    def expected_tokens(self, acceptance: Sequence[float] | None = None) -> float:
        """Tokens per forward pass by a vector of rank acceptance, the bonus token included."""
        chances = SAMPLED_RANKS if acceptance is None else acceptance
        worth = np.ones(self.size)
        for node in range(1, self.size):
            rank = int(self.ranks[node])
            chance = chances[rank] if rank < len(chances) else 0.0
            worth[node] = worth[self.parents[node]] * chance
        return float(worth.sum())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DraftTree) and self.paths == other.paths

    def __hash__(self) -> int:
        return hash(self.paths)

    def __repr__(self) -> str:
        return f"DraftTree({self.size} nodes, depth {self.max_depth})"


@dataclass(slots=True, eq=False)
class Draft:
    """Trees of tokens for a batch, as `NgramTable.draft` returns them and `verify_tree` reads them.

    NumPy arrays, or tensors of one device after `to`. B sequences, T nodes (the template's size), K
    candidates, W = ceil(T / 64). The valid nodes of a sequence stand in front, breadth first, so a
    forward pass needs only the first `max(sizes)`. Row t of the logits is that of node t.

    Attributes:
        tokens: int32 (B, T). Node 0's is the last committed token. -1 where not valid.
        parents: int32 (B, T), -1 for node 0 and where not valid.
        first_child: int32 (B, T), -1 where there is none.
        next_sibling: int32 (B, T), in draw order (verification depends on it), -1 at the end.
        depths: int32 (B, T): position of a node = past length + depth. -1 where not valid.
        slots: int32 (B, T): which node of the template it is, to count acceptance. -1 if not valid.
        ancestors: int64 (B, T, W), bit j of word w: node 64 w + j is on the path from node 0 to
            this node, both included; 0 where not valid. Bit patterns: the sign bit is node 63.
        sizes: int32 (B): how many nodes are valid.
        q_ids: int32 (B, T, K): the candidates among which the node's children were drawn, -1
            behind them; none (-1 throughout) for leaves and where children were not drawn at
            random.
        q: float32 (B, T, K): their probabilities, the very numbers that were sampled from; 0
            behind them.
        max_depth: of the template.
        sampled: whether children were drawn from q (then recursive rejection is exact) or chosen
            in any other way (then target-only verification is).

    Example::

        >>> table = thrifty.NgramTable(1024)
        >>> table.observe_tokens([1, 2, 3, 1, 2, 3, 1, 2])
        >>> draft = table.draft([[3, 1, 2]], tree=thrifty.DraftTree.chain(3))
        >>> draft.tokens.tolist()
        [[2, 3, 1, 2]]
    """

    tokens: Any
    parents: Any
    first_child: Any
    next_sibling: Any
    depths: Any
    slots: Any
    ancestors: Any
    sizes: Any
    q_ids: Any
    q: Any
    max_depth: int
    sampled: bool

    @property
    def valid(self) -> Any:
        """bool (B, T)."""
        return self.tokens >= 0

    def to(self, device: Any = "cpu") -> "Draft":
        """The same with tensors on a torch device."""
        import torch

        def move(value: Any) -> Any:
            if isinstance(value, np.ndarray):
                value = torch.from_numpy(value)
            return value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value

        return replace(self, **{f.name: move(getattr(self, f.name)) for f in fields(self)})

    def trimmed(self) -> "Draft":
        """Without the columns that no sequence uses, T = max(sizes); reads `sizes`."""
        count = max(1, int(self.sizes.max())) if len(self.sizes) else 1
        names = ("tokens", "parents", "first_child", "next_sibling", "depths", "slots",
                 "ancestors", "q_ids", "q")  # fmt: skip
        cut = {name: getattr(self, name)[:, :count] for name in names}
        cut["ancestors"] = cut["ancestors"][:, :, : -(-count // 64)]
        return replace(self, **cut)
