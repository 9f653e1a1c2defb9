"""The attention ops of `thrifty.numpy`."""

from itertools import pairwise
from typing import Any

import numpy as np

from thrifty import _native
from thrifty._attention_recipe import (
    CPU_MIN_LEN,
    check_cuts,
    check_recipe,
    exact_recipe,
    expect,
)


def bucket_sort(ids: np.ndarray, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The stable counting sort of each row: (order, offsets); see `thrifty.bucket_sort`."""
    return _native.bucket_sort(ids, buckets)


def lsh_bucket(x: np.ndarray, planes: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """The bucket of each row by signs of products, in Gray order; see `thrifty.lsh_bucket`."""
    return _native.lsh_bucket(x, planes, mean)


def centroid_bucket(
    x: np.ndarray, centroids: np.ndarray, mean: np.ndarray | None = None
) -> np.ndarray:
    """The centroid of the greatest product with each row; see `thrifty.centroid_bucket`."""
    return _native.centroid_bucket(x, centroids, mean)


def hyper_core(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    q_order: np.ndarray,
    q_offsets: np.ndarray,
    k_order: np.ndarray,
    windows: np.ndarray,
    list_k: np.ndarray | None = None,
    list_v: np.ndarray | None = None,
    list_logw: np.ndarray | None = None,
    list_range: np.ndarray | None = None,
    list_var: np.ndarray | None = None,
    *,
    scale: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Attention to windows of sorted keys and a list: (out, lse); see `thrifty.hyper_core`.

    Strided arrays are copied.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _native.hyper_core(
        q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw, list_range,
        list_var, scale,
    )  # fmt: skip


def hyper_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    *,
    causal: bool = False,
    scale: float | None = None,
    mode: str = "means",
    num_buckets: int = 256,
    window: int = 256,
    residual: int = 256,
    keep: int = 64,
    leaf: int = 1024,
    min_len: int | None = None,
    planes: int = 7,
    seed: int | tuple[int, int] = 0,
    center: bool = True,
    return_lse: bool = False,
    cu_seqlens: np.ndarray | None = None,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """Attention at a near-linear cost, approximate but for short input; see
    `thrifty.hyper_attention`.

    Args:
        min_len: with fewer queries or keys than this attention is exact; None: the torch op's own
            choice. Exact attention is this library's here and torch's there, so that bits differ;
            from `min_len` on they are the same.
        seed: a number, or (seed, offset), each in [-2^63, 2^63).

    Strided arrays are copied.

    Raises:
        ValueError: arguments that do not fit.
    """
    op = "hyper_attention"
    for name, x in (("q", q), ("k", k), ("v", v)):
        expect(x.ndim == 4, op, name, "4 dimensions (B, H, N, D)", x.ndim)
    nq, nk = q.shape[2], k.shape[2]
    if causal and nq > nk:
        expect(False, op, "q", f"at most as many queries as keys ({nk}), as causal", nq)
    check_recipe(op, mode, num_buckets=num_buckets, window=window, residual=residual, keep=keep,
                 leaf=leaf, planes=planes)  # fmt: skip
    expect(min_len is None or min_len >= 0, op, "min_len", "None or at least 0", min_len)
    shortest = CPU_MIN_LEN.get(q.dtype.itemsize, 0) if min_len is None else min_len
    recipe: dict[str, Any] = {
        "mode": mode, "num_buckets": num_buckets, "window": window, "residual": residual,
        "keep": keep, "leaf": leaf,
    }  # fmt: skip
    pair = np.asarray((seed, 0) if isinstance(seed, int) else seed, np.int64)
    scale = max(q.shape[3], 1) ** -0.5 if scale is None else scale

    def attend(rows: slice, cuts: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        part = q[:, :, rows], k[:, :, rows], v[:, :, rows]
        n = part[1].shape[2]
        short = cuts is None and min(part[0].shape[2], n) < shortest
        r = recipe | exact_recipe(n) if short else recipe
        return _native.hyper_attention(
            *part, cuts, r["mode"], causal, center, r["num_buckets"], r["window"], r["residual"],
            r["keep"], r["leaf"], planes, pair, scale,
        )  # fmt: skip

    if cu_seqlens is None:
        out, lse = attend(slice(None), None)
        return (out, lse) if return_lse else out
    cuts = _checked_cuts(op, cu_seqlens, q, nk)
    if np.diff(cuts).min(initial=shortest) >= shortest:
        out, lse = attend(slice(None), cuts)
    else:
        parts = [attend(slice(a, b), None) for a, b in pairwise(cuts.tolist())]
        out, lse = (np.concatenate(rows, 2) for rows in zip(*parts, strict=True))
    return (out, lse) if return_lse else out


def _checked_cuts(op: str, cu_seqlens: np.ndarray, q: np.ndarray, nk: int) -> np.ndarray:
    cuts, nq = np.asarray(cu_seqlens), q.shape[2]
    expect(q.shape[0] == 1, op, "q", "a batch of 1, as cu_seqlens is given", q.shape[0])
    expect(nq == nk, op, "q", f"as many queries as keys ({nk}), as cu_seqlens is given", nq)
    integers = cuts.dtype in (np.int32, np.int64) and cuts.ndim == 1
    got = f"{cuts.dtype} of shape {cuts.shape}"
    expect(integers, op, "cu_seqlens", "int32 or int64 of one dimension", got)
    check_cuts(op, cuts.tolist(), nq)
    return cuts.astype(np.int64)
