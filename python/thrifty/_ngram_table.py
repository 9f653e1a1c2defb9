"""NgramTable: what followed each n-gram so far, and drafts sampled from it. NumPy only."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thrifty import _native
from thrifty._arguments import named
from thrifty._draft_tree import Draft, DraftTree

if TYPE_CHECKING:
    from thrifty._tensor_table import TensorNgramTable

MODES = ("sample", "greedy")
INT32 = np.dtype(np.int32)


def _int32(value: Any, ndim: int, name: str, op: str) -> np.ndarray:
    """A contiguous int32 array; ids that int32 cannot hold are refused, not wrapped."""
    array = np.asarray(value)
    # Comparing dtypes by == takes longer than drafting a small tree.
    if array.dtype is INT32 and array.ndim == ndim and array.flags.c_contiguous:
        return array
    if array.size == 0 and array.dtype.kind == "f":  # an empty list
        array = array.astype(np.int32)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        shape = f"{array.dtype} with {array.ndim} dimensions"
        raise ValueError(f"{op}: {name}: expected integers with {ndim} dimensions, got {shape}")
    if array.dtype != np.int32:
        if array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
            raise ValueError(f"{op}: {name}: expected ids below 2^31, got {array.max()}")
        array = array.astype(np.int32)
    return np.ascontiguousarray(array)


def _int64(value: Any, name: str, op: str) -> Any:
    """A Python int, or an array of int64."""
    if isinstance(value, int):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{op}: {name}: expected integers, got {array.dtype}")
    return int(array) if array.ndim == 0 else np.ascontiguousarray(array, np.int64)


class NgramTable:
    """For each n-gram seen, the running mean of the k most probable next tokens: a draft model that
    is a hash table.

    Every context of n_min to n_max tokens has a slot with up to k (token, probability) pairs and a
    count. Look-up takes the longest context that is known. Memory is bounded: a slot that finds no
    room replaces the least seen, then oldest, of eight. Nothing is ever rehashed, so an operation
    takes the same time at any age of the table.

    Args:
        capacity: slots, rounded up to a power of two, at least 64. One takes 104 bytes at k = 10;
            text needs about 1.4 per token seen. Pages that were never touched take no memory.
        k: tokens kept per context, 1 to 14.
        n_min, n_max: shortest and longest context, 1 <= n_min <= n_max <= 8.
        count_cap: from this count on the mean becomes a moving one, 1/(count_cap + 1) a time. At
            least 1.
        seed: of the hash; tables can be merged when their seeds agree.
        vocab_size: ids must be below it; None checks only that they are not negative.
        vocab: a name or fingerprint of the tokenizer, written into files, compared on `load`.

    Arrays in are NumPy arrays, CPU tensors or lists; arrays out are NumPy arrays. The GIL is
    released while it works. Any number of threads may draft while others update: a reader takes a
    slot as it was before or after an update, never between. Updates of one call are applied in its
    order, with any number of threads; of concurrent calls, in any order.

    Example::

        >>> table = thrifty.NgramTable(1 << 10, n_max=3)
        >>> table.update([[5, 6, 7]], ids=[[8, 9]], probs=[[0.75, 0.25]])
        >>> draft = table.draft([[5, 6, 7]], tree=thrifty.DraftTree.default(4), seed=1)
        >>> draft.tokens[0, 0], set(draft.tokens[0, 1:].tolist()) <= {-1, 8, 9}
        (np.int32(7), True)
        >>> draft.q[0, 0, :2]
        array([0.75, 0.25], dtype=float32)

    STAND, arXiv 2506.04708, section 3: keys of several lengths, running means, sampled children.
    """

    @named
    def __init__(
        self,
        capacity: int = 1 << 17,
        k: int = 10,
        n_min: int = 1,
        n_max: int = 4,
        count_cap: int = 64,
        seed: int = 0,
        *,
        vocab_size: int | None = None,
        vocab: str = "",
    ) -> None:
        self._native = _native.NgramTable(
            capacity, k, n_min, n_max, count_cap, seed, vocab_size or 0, vocab
        )

    def update(self, tails: Any, lens: Any = None, *, ids: Any, probs: Any) -> None:
        """Merges the next-token distributions that a model gave after N contexts.

        Args:
            tails: int (N, L): the last L <= n_max tokens of each context, the newest at the end;
                a shorter tail stands at the right end.
            lens: int (N): how many of the L are there; None is all. 0 is allowed and does nothing.
            ids: int (N, K): the most probable tokens, distinct; -1 pads at the end. Of more than k
                the k first are taken.
            probs: float (N, K): their probabilities, descending, positive, sum at most 1. Zero
                pads.

        A mean of count c becomes c/(c+1) old + 1/(c+1) new, tokens missing on a side count as 0,
        and the k largest stay.

        Raises:
            ValueError: before anything is changed, if shapes do not fit, ids are out of range or
                come twice, probabilities increase or sum to more than 1.
        """
        tails_ = _int32(tails, 2, "tails", "update")
        lens_ = None if lens is None else _int32(lens, 1, "lens", "update")
        ids_ = _int32(ids, 2, "ids", "update")
        probs_ = np.ascontiguousarray(np.asarray(probs), np.float32)
        self._native.update(tails_, lens_, ids_, probs_)

    def observe_tokens(self, tokens: Any, start: int = 1) -> None:
        """Counts what followed what in a text, for engines that give no probabilities.

        Args:
            tokens: int (L): one text.
            start: the first token that is new: the contexts before tokens[start], tokens[start + 1]
                ... are updated, each with probability 1 for the token that came. Tokens before
                serve as context. At least 1.
        """
        self._native.observe_tokens(_int32(tokens, 1, "tokens", "observe_tokens"), start)

    def draft(
        self,
        tails: Any,
        lens: Any = None,
        tree: DraftTree | None = None,
        mode: str = "sample",
        inv_temp: float = 1.0,
        seed: Any = 0,
        offset: Any = 0,
        *,
        first: "NgramTable | Sequence[NgramTable | None] | None" = None,
    ) -> Draft:
        """Fills a tree of drafted tokens for each of B sequences.

        Args:
            tails, lens: as in `update`; the last token of a tail is node 0. A len is at least 1.
            tree: the template; None is `DraftTree.default()`.
            mode: "sample" draws a node's children without replacement from
                q_i = p_i^inv_temp / sum_j p_j^inv_temp, one after the other; "greedy" takes the
                most probable in order.
            inv_temp: 1 where the table holds probabilities at the temperature of the request.
            seed: int or (B): with `offset`, the draft is a function of (seed, offset, table, tail)
                and does not depend on the place in the batch.
            offset: int or (B): the position of the next token in its sequence, so that each step
                draws afresh. `verify_tree` takes the same pair: its numbers are others.
            first: a table, or one (or None) per sequence, that is asked first: at each length of
                context it wins over this one. The same k, n_min, n_max. For a table per prompt
                beside a shared one.

        Returns:
            A `Draft`.

        A node with c children in the template and m candidates gets min(c, m) of them. A node whose
        contexts are all unknown gets none.
        """
        tails_ = _int32(tails, 2, "tails", "draft")
        lens_ = None if lens is None else _int32(lens, 1, "lens", "draft")
        if mode not in MODES:
            raise ValueError(f"draft: mode: expected one of {MODES}, got {mode!r}")
        tree = tree or default_tree()
        before: list = []
        if first is not None:
            tables = [first] * len(tails_) if isinstance(first, NgramTable) else list(first)
            before = [table and table._native for table in tables]
        arrays = self._native.draft(
            tails_, lens_, tree.native, mode == "sample", inv_temp,
            _int64(seed, "seed", "draft"), _int64(offset, "offset", "draft"), before,
        )  # fmt: skip
        return Draft(*arrays, tree.max_depth, mode == "sample")  # type: ignore[arg-type, call-arg]

    def probabilities(self, tails: Any, ids: Any, lens: Any = None) -> tuple[np.ndarray, ...]:
        """What the table holds of M tokens after each of N contexts, by length of context.

        Args:
            tails, lens: as in `update`.
            ids: int (N, M).

        Returns:
            probs: float32 (N, n_max - n_min + 1, M), shortest context first; 0 where the token is
                not among the slot's.
            counts: int32 (N, n_max - n_min + 1), 0 where the context is unknown.

        For interpolated n-gram scores as in Superposed Decoding, arXiv 2405.18400, section 3.
        """
        tails_ = _int32(tails, 2, "tails", "probabilities")
        lens_ = None if lens is None else _int32(lens, 1, "lens", "probabilities")
        ids_ = _int32(ids, 2, "ids", "probabilities")
        return self._native.probabilities(tails_, lens_, ids_)

    def merge(self, other: "NgramTable") -> None:
        """Adds another table's contexts: means weighted by counts. Same k, n_min, n_max, seed.

        Counts up to count_cap are what weighs; the k largest probabilities stay.
        """
        self._native.merge(other._native)

    def clear(self) -> None:
        """Forgets everything."""
        self._native.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes one flat file: to a temporary beside `path`, synced, then renamed.

        A process killed at any moment leaves the old file or the new one. Updates of other threads
        wait meanwhile.
        """
        self._native.save(os.fspath(path))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        vocab_size: int | None = None,
        vocab: str | None = None,
    ) -> "NgramTable":
        """Maps a file of `save`: pages are read when used, and copied when written.

        Args:
            vocab_size, vocab: what the file must say; None takes what it says.

        Raises:
            ValueError: not such a file, another version, byte order or vocabulary, truncated, or
                its checksum does not hold. The checksum reads the file once.
            OSError: it cannot be opened.
        """
        table = cls.__new__(cls)
        table._native = _native.NgramTable.load(os.fspath(path), vocab_size or 0, vocab)
        return table

    def to(self, device: Any) -> "TensorNgramTable":
        """A copy in a tensor of that device, "cuda" say, for loops that stay there. Needs torch."""
        from thrifty._tensor_table import TensorNgramTable

        return TensorNgramTable(self, device)

    def stats(self) -> dict[str, int]:
        """Counters since the table was made, loaded or cleared.

        capacity, used: slots. bytes: of keys and slots in use, bytes_reserved: of all. updates:
        contexts merged. evictions: contexts that lost their slot. lookups, hits: nodes drafted
        from, and those whose context was known.
        """
        return self._native.stats()

    k = property(lambda self: self._native.k)
    n_min = property(lambda self: self._native.n_min)
    n_max = property(lambda self: self._native.n_max)
    capacity = property(lambda self: self._native.capacity)
    vocab_size = property(lambda self: self._native.vocab_size or None)
    vocab = property(lambda self: self._native.vocab)

    def __repr__(self) -> str:
        stats = self.stats()
        return (
            f"NgramTable({stats['used']} of {self.capacity} slots, k={self.k}, "
            f"n={self.n_min}..{self.n_max})"
        )


_default: DraftTree | None = None


def default_tree() -> DraftTree:
    """`DraftTree.default()`, made once."""
    global _default
    if _default is None:
        _default = DraftTree.default()
    return _default
