"""tree_merge: two drafted trees of a sequence as one, fused by longest common prefixes."""

from typing import Any

import numpy as np

from thrifty._arguments import named
from thrifty._draft_tree import Draft


@named
def tree_merge(
    a: Draft,
    b: Draft,
    budget: int,
    *,
    scores_a: Any = None,
    scores_b: Any = None,
) -> Draft:
    """Fuses drafts of two sources, such as a draft model's and a table's, into one tree each.

    Every path of `b` is followed in `a` as far as its tokens are there, and what is left of it is
    attached where it leaves. A path that both have is verified once. Of the fused tree the
    `budget` best nodes stay, parents before children.

    Args:
        a, b: drafts of the same sequences: B and node 0's tokens agree. NumPy arrays or tensors.
        budget: nodes of the result, node 0 included, 1 to 1024.
        scores_a, scores_b: float (B, T): how much each node is worth, such as its path's log
            probability; a node of both has the larger. A node is worth no more than its parent.
            None: all of `a` before all of `b`, each in its order.

    Returns:
        A `Draft` of NumPy arrays with T = budget and ``sampled=False``: which nodes stay depends on
        the tokens drawn, so the ratio test would not be exact and `verify_tree` has to use the
        target-only rule, which "auto" does. Siblings are in order of worth. `slots` are the nodes'
        own numbers, as there is no template.

    Raises:
        ValueError: other sequences, a budget or scores that do not fit.

    Example::

        >>> table = thrifty.NgramTable(1024)
        >>> table.observe_tokens([1, 2, 3, 4])
        >>> other = thrifty.NgramTable(1024)
        >>> other.observe_tokens([1, 2, 5])
        >>> a, b = (t.draft([[1]], tree=thrifty.DraftTree.chain(3)) for t in (table, other))
        >>> merged = thrifty.tree_merge(a, b, 6)
        >>> merged.tokens.tolist(), merged.parents.tolist()
        ([[1, 2, 3, 5, 4, -1]], [[-1, 0, 1, 1, 2, -1]])

    RASD, arXiv 2503.03434, section 3.3.
    """
    a, b = _on_host(a), _on_host(b)
    batch = len(a.tokens)
    if len(b.tokens) != batch:
        _fail("b", f"{batch} sequences", len(b.tokens))
    if not 1 <= budget <= 1024:
        _fail("budget", "1 to 1024", budget)
    if (a.tokens[:, 0] != b.tokens[:, 0]).any():
        _fail("b", f"node 0's tokens {a.tokens[:, 0].tolist()}", b.tokens[:, 0].tolist())
    worth_a, worth_b = _worth(a, scores_a, "scores_a", 1.0), _worth(b, scores_b, "scores_b", -1.0)
    out = _empty(batch, budget, max(a.max_depth, b.max_depth), a.q_ids.shape[-1])
    for row in range(batch):
        fused = _Fused()
        fused.add(a.tokens[row], a.parents[row], int(a.sizes[row]), worth_a[row])
        fused.add(b.tokens[row], b.parents[row], int(b.sizes[row]), worth_b[row])
        _write(out, row, fused, fused.best(budget))
    return out


def _fail(what: str, expected: str, got: object) -> None:
    raise ValueError(f"tree_merge: {what}: expected {expected}, got {got}")


def _on_host(draft: Draft) -> Draft:
    if isinstance(draft.tokens, np.ndarray):
        return draft
    names = ("tokens", "parents", "sizes", "q_ids")
    moved = {name: getattr(draft, name).cpu().numpy() for name in names}
    rest = {name: getattr(draft, name) for name in Draft.__dataclass_fields__ if name not in moved}
    return Draft(**rest, **moved)


def _worth(draft: Draft, scores: Any, name: str, sign: float) -> np.ndarray:
    if scores is None:  # b's are below all of a's, and both decrease in their order
        place = np.arange(draft.tokens.shape[1], dtype=np.float64)
        return np.broadcast_to(sign - place / (1 + len(place)), draft.tokens.shape)
    if hasattr(scores, "detach"):
        scores = scores.detach().cpu().numpy()
    values = np.asarray(scores, np.float64)
    if values.shape != draft.tokens.shape:
        _fail(name, f"shape {draft.tokens.shape}", values.shape)
    if np.isnan(values).any():
        _fail(name, "numbers", "NaN")
    return values


class _Fused:
    """A trie of tokens; node 0 is the root. Children come behind their parents."""

    def __init__(self) -> None:
        self.tokens, self.parents, self.depths = [-1], [-1], [0]
        self.worth = [np.inf]
        self._child: dict[tuple[int, int], int] = {}

    def add(self, tokens: np.ndarray, parents: np.ndarray, size: int, worth: np.ndarray) -> None:
        self.tokens[0] = int(tokens[0])
        here = [0] * size  # each node of the tree, in the trie
        for node in range(1, size):
            parent, token = here[parents[node]], int(tokens[node])
            found = self._child.get((parent, token))
            value = min(float(worth[node]), self.worth[parent])
            if found is None:
                found = self._child[parent, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(self.depths[parent] + 1)
                self.worth.append(value)
            else:
                self.worth[found] = max(self.worth[found], value)
            here[node] = found

    def best(self, budget: int) -> list[int]:
        """The kept nodes, breadth first, siblings by worth. Closed under parents."""
        order = range(len(self.tokens))
        kept = sorted(order, key=lambda i: (-self.worth[i], self.depths[i], i))[:budget]
        return sorted(kept, key=lambda i: (self.depths[i], -self.worth[i], i))


def _empty(batch: int, count: int, max_depth: int, k: int) -> Draft:
    def full(value: float, *shape: int, dtype: Any = np.int32) -> np.ndarray:
        return np.full((batch, *shape), value, dtype)

    return Draft(
        tokens=full(-1, count), parents=full(-1, count), first_child=full(-1, count),
        next_sibling=full(-1, count), depths=full(-1, count), slots=full(-1, count),
        ancestors=full(0, count, -(-count // 64), dtype=np.int64), sizes=full(0),
        q_ids=full(-1, count, k), q=full(0, count, k, dtype=np.float32),
        max_depth=max_depth, sampled=False,
    )  # fmt: skip


def _write(out: Draft, row: int, fused: _Fused, kept: list[int]) -> None:
    place = {node: i for i, node in enumerate(kept)}
    bits = np.zeros((len(kept), out.ancestors.shape[-1] * 64), np.uint8)
    last_child: dict[int, int] = {}
    for i, node in enumerate(kept):
        out.tokens[row, i], out.depths[row, i] = fused.tokens[node], fused.depths[node]
        out.slots[row, i] = i
        bits[i, i] = 1
        if i == 0:
            continue
        parent = out.parents[row, i] = place[fused.parents[node]]
        bits[i] |= bits[parent]
        if parent in last_child:
            out.next_sibling[row, last_child[parent]] = i
        else:
            out.first_child[row, parent] = i
        last_child[parent] = i
    packed = np.packbits(bits, axis=1, bitorder="little").view(np.int64)
    out.ancestors[row, : len(kept)] = packed
    out.sizes[row] = len(kept)
