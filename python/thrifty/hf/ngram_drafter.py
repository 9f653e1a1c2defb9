"""NgramDrafter: the tables, the tree and the policy that `speculative_generate` drafts with.

STAND (arXiv 2506.04708): contexts of n_max to n_min tokens, running means of the model's own top-k
probabilities, trees of sampled children. What it learns stays with the object, so later calls, and
other trajectories of a prompt, draft from it.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from thrifty._draft_tree import Draft, DraftTree
from thrifty._ngram_table import NgramTable
from thrifty.hf._adaptive import TreeSizes

SHARES = ("all", "prompt")
UPDATES = ("auto", "path", "all")
MODES = ("auto", "sample", "greedy")
LARGE_VOCABULARY = 65536  # from here on the top k of every node's row costs a CPU milliseconds
REMEMBERED_PROMPTS = 4096


class NgramDrafter:
    """Drafts continuations from the n-grams of what the model generated so far.

    Args:
        table: the `NgramTable` to use, for one that was loaded from a file or is shared with other
            drafters; None makes one of `capacity`, `k`, `n_min` and `n_max`.
        tree: the shape of a draft, or its number of nodes. None is `DraftTree.default()` of 80
            nodes, of fewer in a batch (about 64 in all, at least 8 each), and a chain of 10 where
            the model's attention or cache cannot take a tree.
        mode: "sample" draws children from the table's probabilities, "greedy" takes the most
            probable; "auto" is what the call of `generate` does.
        update: "all" learns from every node that the model scored, "path" from the accepted ones;
            "auto" is "all", but "path" on a CPU with a vocabulary above 65536.
        share: "all" keeps one table for everything; "prompt" one for each of the last
            `tables` prompts, which is STAND's own setting.
        node_cost: the time of one more node in a forward pass, in units of a pass with one token.
            When it is above 0, the size of each draft is chosen among nested trees of 1, 8, 16, 32,
            ... nodes to have the most tokens per time, from what was accepted before. 0: always the
            whole tree.
        observe_prompt: whether the prompts' own n-grams go into the table as counts.
        capacity, k, n_min, n_max: see `NgramTable`.
        tables: how many prompts' tables `share="prompt"` keeps.

    Drafts never change the law of what is generated, whatever is in the table. One drafter serves
    one call of `generate` at a time.

    Example::

        >>> drafter = thrifty.hf.NgramDrafter(tree=32)
        >>> drafter.tree.size, drafter.stats()["forwards"]
        (32, 0)
    """

    def __init__(
        self,
        table: NgramTable | None = None,
        *,
        tree: DraftTree | int | None = None,
        mode: str = "auto",
        update: str = "auto",
        share: str = "all",
        node_cost: float = 0.0,
        observe_prompt: bool = True,
        capacity: int = 1 << 17,
        k: int = 10,
        n_min: int = 1,
        n_max: int = 4,
        tables: int = 64,
    ) -> None:
        for name, value, allowed in (
            ("mode", mode, MODES),
            ("update", update, UPDATES),
            ("share", share, SHARES),
        ):
            if value not in allowed:
                raise ValueError(f"NgramDrafter: {name}: expected one of {allowed}, got {value!r}")
        if not node_cost >= 0:
            raise ValueError(f"NgramDrafter: node_cost: expected at least 0, got {node_cost}")
        if tables < 1:
            raise ValueError(f"NgramDrafter: tables: expected at least 1, got {tables}")
        if table is None:  # beside tables of prompts it stays empty
            table = NgramTable(capacity if share == "all" else 64, k, n_min, n_max)
        self.table = table
        self._capacity = capacity
        self.tree = DraftTree.default(tree) if isinstance(tree, int) else tree
        self.mode, self.update, self.share = mode, update, share
        self.node_cost, self.observe_prompt = node_cost, observe_prompt
        self._tables: OrderedDict[bytes, NgramTable] = OrderedDict()
        self._max_tables = tables
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._sizes: TreeSizes | None = None
        self._rows: list[NgramTable] = []  # one for each sequence of the running call
        self._own = False  # whether they are the prompts' own
        self.forwards = self.tokens = self.drafted = 0

    def stats(self) -> dict[str, int | float]:
        """What all calls so far came to.

        forwards: forward passes, prefills among them, counted once per sequence. tokens: generated.
        tokens_per_forward. drafted: nodes that were verified. slots, bytes: of the tables.
        """
        found = [self.table.stats(), *(table.stats() for table in self._tables.values())]
        return {
            "forwards": self.forwards,
            "tokens": self.tokens,
            "tokens_per_forward": self.tokens / max(self.forwards, 1),
            "drafted": self.drafted,
            "slots": sum(stats["used"] for stats in found),
            "bytes": sum(stats["bytes"] for stats in found),
        }

    # ---- what speculative_generate calls

    def begin(self, prompts: Sequence[np.ndarray], trees: bool) -> None:
        """A call of generate starts: one prompt per sequence, and whether trees can be verified."""
        self._own = self.share == "prompt"
        self._rows = [self._table_of(prompt) for prompt in prompts]
        if self.observe_prompt:
            for prompt, table in zip(prompts, self._rows, strict=True):
                self._observe(prompt, table)
        tree = self._tree_for(len(prompts), trees)
        if self._sizes is None or self._sizes.tree != tree:
            self._sizes = TreeSizes(tree, self.node_cost)

    def tree_now(self, max_depth: int) -> DraftTree:
        """The tree of the next step; nothing is known yet of the tokens that it will hold."""
        assert self._sizes is not None
        return self._sizes.choose(max_depth)

    def draft(
        self,
        rows: np.ndarray,
        tails: np.ndarray,
        lens: np.ndarray,
        tree: DraftTree,
        sample: bool,
        seeds: np.ndarray,
        offsets: np.ndarray,
    ) -> Draft:
        """Trees for some of the call's sequences, below their last tokens."""
        mode = self.mode if self.mode != "auto" else ("sample" if sample else "greedy")
        first = [self._rows[int(row)] for row in rows] if self._own else None
        return self.table.draft(tails, lens, tree, mode, seed=seeds, offset=offsets, first=first)

    def learn(
        self,
        row: int,
        tails: np.ndarray,
        lens: np.ndarray,
        ids: np.ndarray,
        probs: np.ndarray,
    ) -> None:
        """What the model said after some contexts of one sequence."""
        self._rows[row].update(tails, lens, ids=ids, probs=probs)

    def learn_batch(
        self,
        rows: np.ndarray,
        tails: np.ndarray,
        lens: np.ndarray,
        ids: np.ndarray,
        probs: np.ndarray,
    ) -> None:
        """`learn` for contexts of several sequences: rows (N), then arrays with N rows."""
        if not self._own:
            self.table.update(tails, lens, ids=ids, probs=probs)
            return
        for row in np.unique(rows):
            of = rows == row
            self.learn(int(row), tails[of], lens[of], ids[of], probs[of])

    def count(self, tree: DraftTree, slots: Sequence[np.ndarray], nodes: int, tokens: int) -> None:
        """The step is over: the template's nodes on each accepted path, and what was emitted."""
        assert self._sizes is not None
        self.forwards += len(slots)
        self.tokens += tokens
        self.drafted += nodes - len(slots)
        for accepted in slots:
            self._sizes.record(tree, accepted)

    def learns_from_all(self, device: str, vocabulary: int) -> bool:
        if self.update == "auto":
            return device != "cpu" or vocabulary <= LARGE_VOCABULARY
        return self.update == "all"

    # ---- tables

    def _table_of(self, prompt: np.ndarray) -> NgramTable:
        if not self._own:
            return self.table
        key = _digest(prompt)
        if key not in self._tables:
            like = self.table
            self._tables[key] = NgramTable(self._capacity, like.k, like.n_min, like.n_max)
            if len(self._tables) > self._max_tables:
                self._seen.pop(self._tables.popitem(last=False)[0], None)
        self._tables.move_to_end(key)
        return self._tables[key]

    def _observe(self, prompt: np.ndarray, table: NgramTable) -> None:
        """Each prompt once: more samples of it say nothing new of its text."""
        key = _digest(prompt)
        if key not in self._seen:
            table.observe_tokens(prompt)
            self._seen[key] = None
            if len(self._seen) > REMEMBERED_PROMPTS:
                self._seen.popitem(last=False)

    def _tree_for(self, batch: int, trees: bool) -> DraftTree:
        if self.tree is not None:
            is_chain = self.tree.max_depth == self.tree.size - 1
            return self.tree if trees or is_chain else DraftTree.chain(self.tree.max_depth)
        if not trees:
            return DraftTree.chain(10)
        return DraftTree.default(80 if batch == 1 else max(8, 64 // batch))


def _digest(prompt: np.ndarray) -> bytes:
    return hashlib.blake2b(
        np.ascontiguousarray(prompt, np.int64).tobytes(), digest_size=16
    ).digest()
