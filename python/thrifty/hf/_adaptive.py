"""How large the next draft is: the nested tree with the most tokens per time.

    tokens(s) / (1 + node_cost * (s - 1))        tokens(s) = 1 + nodes of tree s on accepted paths

Trees of all sizes share their best nodes, and a node is tested before those behind it, so a step
with a large tree also shows what a smaller one would have had accepted: its means are kept for all
sizes up to the one that ran. Decided before anything is drawn, from the past alone, so verification
stays exact; decided by counts and not by clocks, so that a seed gives the same text again.
"""

from collections.abc import Sequence

import numpy as np

from thrifty._draft_tree import DraftTree

SIZES = (1, 8, 16, 32, 64, 128, 256)
WEIGHT = 1 / 16  # of a new observation in the running means
EXPLORE = 16  # every so many steps the whole tree runs, to see what it would have had accepted


class TreeSizes:
    """Nested trees of one template, and the running mean of tokens per step of each."""

    def __init__(self, tree: DraftTree, node_cost: float) -> None:
        self.tree, self.node_cost = tree, node_cost
        smaller = [size for size in SIZES if size < tree.size] if node_cost > 0 else []
        self._nested = [*(tree.nested(size) for size in smaller), tree]
        self._paths = [set(nested.paths) for nested in self._nested]
        self._mean = [nested.expected_tokens() for nested in self._nested]
        self._steps = 0
        self._cut: dict[tuple[int, int], DraftTree] = {}

    def choose(self, max_depth: int) -> DraftTree:
        """The size for the next step, its paths no longer than `max_depth`."""
        which = len(self._nested) - 1
        if which > 0 and self._steps % EXPLORE != 0:
            which = max(range(len(self._nested)), key=self._rate)
        self._steps += 1
        tree = self._nested[which]
        if max_depth >= tree.max_depth:
            return tree
        key = (which, max_depth)
        if key not in self._cut:
            self._cut[key] = DraftTree([path for path in tree.paths[1:] if len(path) <= max_depth])
        return self._cut[key]

    def record(self, tree: DraftTree, accepted: Sequence[int] | np.ndarray) -> None:
        """The template's nodes on an accepted path; those beyond a smaller tree it had not had."""
        if len(self._nested) == 1:
            return
        path = tree.paths[accepted[-1]] if len(accepted) else ()
        for i, nested in enumerate(self._nested):
            if nested.size > tree.size:
                break
            depth = next(d for d in range(len(path), -1, -1) if path[:d] in self._paths[i])
            self._mean[i] += WEIGHT * (1 + depth - self._mean[i])

    def _rate(self, i: int) -> float:
        return self._mean[i] / (1 + self.node_cost * (self._nested[i].size - 1))
