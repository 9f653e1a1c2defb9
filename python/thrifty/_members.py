"""k, the number of ensemble members, read from whichever argument shows it."""

from collections.abc import Sequence
from typing import Any


def members(op: str, k: int | None, vectors: Sequence[Any], x: Any) -> int:
    """k itself when given, else the rows of the first 2-D vector, else the middle size of 3-D x.

    The same rule as the native ops follow, for those who need k before the call: fake kernels,
    oracles. That the arguments agree with each other is not checked here.
    """
    if k:
        return k
    for vector in vectors:
        if vector is not None and vector.ndim == 2:
            return vector.shape[0]
    if x.ndim == 3:
        return x.shape[1]
    raise ValueError(
        f"{op}: k: expected the number of members, since no argument tells it, got {k}"
    )
