"""ExpertCache: which experts to keep in few slots of fast memory. NumPy only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from thrifty import _native
from thrifty._arguments import named

Ids = Sequence[int] | np.ndarray


class Load(NamedTuple):
    """One expert to be copied into a slot."""

    at: int  # position in the ids that were planned
    expert: int
    slot: int
    evicted: int  # the expert that was there; -1: none


def _int32(value: Any, op: str, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.size == 0:
        return np.zeros(array.shape, np.int32)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{op}: {name}: expected integers, got {array.dtype}")
    if array.max() > 2**31 - 1 or array.min() < -(2**31):
        raise ValueError(f"{op}: {name}: expected numbers below 2^31, got {array.max()}")
    return np.ascontiguousarray(array, np.int32)


class ExpertCache:
    """Which of a model's experts to keep in a few slots of fast memory.

    The cache decides, the caller copies weights: `plan` tells which expert goes into which slot.
    Where a router ahead of the model knows the experts of the tokens to come (Read-ME), "belady"
    evicts the expert whose next use is farthest: no policy loads fewer.

    Args:
        n_experts: ids are 0 ... n_experts - 1.
        n_slots: how many experts fit.
        policy: "belady", "lru" (least recently used) or "lfu" (least often used since the
            beginning). Ties, and experts that are never used again, go by least recent use.

    Attributes: `hits` and `misses` so far; `resident`, the expert of each slot, -1 where none is.

    Raises:
        ValueError: arguments that do not fit.

    Example::

        >>> cache = thrifty.ExpertCache(n_experts=4, n_slots=2)
        >>> queue = [0, 1, 2, 0, 1]
        >>> for load in cache.plan(queue):
        ...     print(load)
        Load(at=0, expert=0, slot=0, evicted=-1)
        Load(at=1, expert=1, slot=1, evicted=-1)
        Load(at=2, expert=2, slot=1, evicted=1)
        Load(at=4, expert=1, slot=1, evicted=2)
        >>> cache.hits, cache.misses
        (1, 4)

    References: Read-ME, arXiv 2410.19123, section 4; Belady, IBM Systems Journal 5 (2), 1966.
    """

    @named
    def __init__(self, n_experts: int, n_slots: int, policy: str = "belady") -> None:
        self._native = _native.ExpertCache(n_experts, n_slots, policy)
        self.n_experts, self.n_slots, self.policy = n_experts, n_slots, policy

    def plan(self, future_ids: Ids, now: int = 0, stop: int | None = None) -> list[Load]:
        """Uses the experts ``future_ids[now:stop]``; what must be loaded for that, in order.

        Args:
            future_ids: (Q,) integers, the expert of each use. "belady" looks ahead to the end of
                it, also beyond `stop`; the others do not look ahead.
            now, stop: the uses that take place. A server plans a window at a time and calls again
                with a longer queue. None: to the end.

        Returns:
            One `Load` per miss. An expert must not be overwritten before the uses ahead of the
            load's `at` are done.

        O(Q) for "belady", else O(stop - now), and O(log n_slots) for each use.
        """
        ids = _int32(future_ids, "ExpertCache.plan", "ids")
        rows = self._native.plan(ids, now, len(ids) if stop is None else stop)
        return [Load(*row) for row in rows.tolist()]

    def batch(
        self,
        ids: Ids,
        max_batch: int,
        *,
        waited: Ids | None = None,
        max_age: int | None = None,
    ) -> np.ndarray:
        """The requests to run next together: all of one expert, so that it is loaded once.

        Args:
            ids: (R,) integers, the expert that each waiting request needs, in the order of arrival.
            max_batch: at most so many.
            waited: (R,) integers, how many batches each has been passed over.
            max_age: once a request has waited for so many, the first such decides the expert.

        Returns:
            int64 positions in `ids`, rising: requests of the expert that most wait for (of equals,
            the one asked for first).
        """
        op = "ExpertCache.batch"
        ages = None if waited is None else _int32(waited, op, "waited")
        limit = -1 if max_age is None else max_age
        return self._native.batch(_int32(ids, op, "ids"), max_batch, ages, limit)

    @property
    def hits(self) -> int:
        return self._native.hits

    @property
    def misses(self) -> int:
        return self._native.misses

    @property
    def resident(self) -> np.ndarray:
        return self._native.expert_of_slot()

    def slot(self, expert: int) -> int:
        """Where an expert is; -1: not loaded."""
        if not 0 <= expert < self.n_experts:
            expected = f"0 to {self.n_experts - 1}"
            raise ValueError(f"ExpertCache.slot: expert: expected {expected}, got {expert}")
        return int(self._native.slot_of_expert()[expert])

    def __repr__(self) -> str:
        return (
            f"ExpertCache(n_experts={self.n_experts}, n_slots={self.n_slots}, "
            f"policy={self.policy!r})"
        )
