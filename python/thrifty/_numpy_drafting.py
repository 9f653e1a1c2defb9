"""Verification of drafts on NumPy arrays; the public names are in `thrifty.numpy`."""

from typing import Any, NamedTuple

import numpy as np

from thrifty import _native
from thrifty._draft_tree import Draft

PerRow = np.ndarray | float | int | None


class RowStats(NamedTuple):
    lse: np.ndarray
    topk_ids: np.ndarray
    topk_probs: np.ndarray
    draw: np.ndarray
    status: np.ndarray


class Verified(NamedTuple):
    tokens: np.ndarray
    lengths: np.ndarray
    path: np.ndarray
    topk_ids: np.ndarray
    topk_probs: np.ndarray
    status: np.ndarray


def _settings(rows: int, *values: PerRow) -> list[np.ndarray | None]:
    """temperature, top_k, top_p, min_p, seed, offset: one number for all rows, or one each."""
    dtypes = (np.float32, np.int64, np.float32, np.float32, np.int64, np.int64)
    return [
        value if value is None or isinstance(value, np.ndarray) else np.full(rows, value, dtype)
        for value, dtype in zip(values, dtypes, strict=True)
    ]


def row_stats(
    logits: np.ndarray,
    k: int = 10,
    *,
    exclude: np.ndarray | None = None,
    temperature: PerRow = None,
    top_k: PerRow = None,
    top_p: PerRow = None,
    min_p: PerRow = None,
    seed: PerRow = None,
    offset: PerRow = 0,
) -> RowStats:
    """Normaliser, k most probable tokens and a draw of each row; see `thrifty.row_stats`.

    >>> row_stats(np.array([[0.0, 2.0, 1.0]], np.float32), k=2).topk_ids
    array([[1, 2]], dtype=int32)
    """
    settings = _settings(len(logits), temperature, top_k, top_p, min_p, seed, offset)
    return RowStats(*_native.row_stats(logits, exclude, settings, k))


def verify_tree(
    logits: np.ndarray,
    draft: Draft,
    *,
    rule: str = "auto",
    temperature: PerRow = None,
    top_k: PerRow = None,
    top_p: PerRow = None,
    min_p: PerRow = None,
    seed: PerRow = None,
    offset: PerRow = 0,
    k: int = 10,
    stats: str = "path",
) -> Verified:
    """Accepts a path of each drafted tree and adds one token; see `thrifty.verify_tree`."""
    if stats not in ("path", "all"):
        raise ValueError(f"verify_tree: stats: expected 'path' or 'all', got {stats!r}")
    if rule == "auto":
        rule = "recursive" if draft.sampled else "target"
        if not isinstance(temperature, np.ndarray) and temperature == 0:
            rule = "greedy"
    settings = _settings(len(logits), temperature, top_k, top_p, min_p, seed, offset)
    arrays = [draft.tokens, draft.first_child, draft.next_sibling, draft.q_ids, draft.q]
    return Verified(
        *_native.verify_tree(logits, arrays, settings, rule, draft.max_depth, k, stats == "all")
    )


def verify_chain(
    logits: np.ndarray,
    tokens: Any,
    lens: np.ndarray | None = None,
    *,
    q: np.ndarray | None = None,
    q_ids: np.ndarray | None = None,
    method: str = "token",
    temperature: PerRow = None,
    top_k: PerRow = None,
    top_p: PerRow = None,
    min_p: PerRow = None,
    seed: PerRow = None,
    offset: PerRow = 0,
    k: int = 10,
) -> Verified:
    """Accepts a prefix of each drafted chain and adds one token; see `thrifty.verify_chain`."""
    settings = _settings(len(logits), temperature, top_k, top_p, min_p, seed, offset)
    chain = np.asarray(tokens).astype(np.int32)
    return Verified(*_native.verify_chain(logits, chain, lens, q_ids, q, settings, method, k))
