"""Attention that looks at a few hundred keys per query, not at all: HyperAttention and its parts.

docs/attention.md has the equations, what is exact, what is random, and the errors to expect.
"""

from functools import lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty import _attention_ops
from thrifty._arguments import named
from thrifty._attention_arguments import check_heads, check_lengths
from thrifty._attention_recipe import (
    CPU_MIN_LEN,
    check_cuts,
    check_recipe,
    exact_recipe,
    expect,
)

__all__ = ["centroid_bucket", "hyper_attention", "hyper_core", "lsh_bucket"]


@named
def hyper_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
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
    seed: int | Tensor = 0,
    center: bool = True,
    return_lse: bool = False,
    deterministic: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention at a near-linear cost: an approximation, except for short sequences.

    ``out = softmax(q @ k.mT * scale) @ v``, where a query looks at `window` keys chosen for it and
    at a short list that stands for all others; one softmax over both. With `causal`, the keys of a
    query's own leaf are exact, and the earlier ones are approximated in squares of doubling size.

    Args:
        q: (B, Hq, Nq, D), D at most 256.
        k: (B, Hkv, Nk, D); Hkv divides Hq, query head h reads key head h // (Hq // Hkv).
        v: (B, Hkv, Nk, Dv), Dv at most 256.
        causal: query i sees the keys up to position i + Nk - Nq; needs Nq <= Nk. Torch's own op
            aligns the first positions instead, which is the same for Nq = Nk.
        scale: of the scores; None is D ** -0.5.
        mode: how keys are chosen. "means": buckets of keys around centroids, windows around the
            query's own bucket, means of all other buckets, and `keep` keys for every query.
            "paper": HyperAttention as published: blocks of queries and keys sorted by a hash, and
            `residual` keys drawn at random.
        num_buckets: "means": most buckets; there are no more than Nk / 8.
        window: keys at which a query looks one by one.
        residual: "paper": number of keys drawn.
        keep: "means": keys at which every query looks: those that the mean query likes best.
        leaf: with `causal`, the side of the exact squares on the diagonal.
        min_len: with fewer queries or keys than this, attention is exact; 0: never, None: where
            exact attention is the faster choice, as measured.
        planes: "paper": hyperplanes of the hash, 1 to 16.
        seed: of everything that is drawn: a number, or int64 (2,) of seed and offset, on the CPU or
            on q's device. The same seed chooses the same keys.
        center: "means": buckets are made of the keys minus their mean. An offset of all keys then
            changes nothing, as in exact attention.
        return_lse: also return the logarithm of the softmax's denominator.
        deterministic: results and gradients bit for bit the same in each call. On the CPU they
            always are, for any number of threads.
        cu_seqlens: int32 or int64 (S + 1,), rising from 0 to N: sequence s has the rows from
            cu_seqlens[s] to cu_seqlens[s + 1] of q, k and v. Needs B = 1 and Nq = Nk. What is
            launched depends on the lengths: beside CUDA tensors it is best on the CPU, one on CUDA
            is copied, which waits for the device.

    q, k and v are float32, bfloat16, float16 or float64, of one dtype, with any strides. Sums are
    taken in float32 (float64).

    Returns:
        (B, Hq, Nq, Dv) in q's dtype; with `return_lse` also (B, Hq, Nq), float32 (float64).

    Exact where a window and the kept keys hold all keys, and where `min_len` says so. Otherwise the
    error depends on the data: docs/attention.md has a table. "paper" estimates each sum over keys
    without bias; "means" draws only where its centroids start. A row's result does not depend on
    its batch, other heads or other sequences; with `causal` neither on later keys, values and the
    length of the sequence, and in mode "means" neither on later queries: bit for bit.

    Differentiable once with respect to q, k and v, also through lse; the gradient is that of the
    function computed, for the keys chosen. NaN reaches the rows that see it.

    Raises:
        ValueError: arguments that do not fit.

    Example::

        >>> q, k, v = torch.randn(3, 1, 2, 5000, 64)
        >>> out = thrifty.hyper_attention(q, k, v, causal=True, min_len=0)
        >>> out.shape
        torch.Size([1, 2, 5000, 64])
        >>> exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        >>> torch.allclose(out[:, :, :1024], exact[:, :, :1024], atol=1e-5)  # the first leaf
        True

    References: HyperAttention, arXiv 2310.05869, algorithms 1 to 4; bucket means after MuSe, arXiv
    2509.10406, and Multipole Attention, arXiv 2506.13059.
    """
    op = "hyper_attention"
    check_heads(op, q, k, v)
    check_lengths(op, q, k, causal, cu_seqlens)
    check_recipe(op, mode, num_buckets=num_buckets, window=window, residual=residual, keep=keep,
                 leaf=leaf, planes=planes)  # fmt: skip
    expect(min_len is None or min_len >= 0, op, "min_len", "None or at least 0", min_len)
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    if min_len is None:
        min_len = automatic_min_len(mode, causal, q.dtype, q.device.type)
    if cu_seqlens is not None:
        if min_len > 0 or not torch.compiler.is_compiling():
            cuts = cu_seqlens.tolist()
            check_cuts(op, cuts, q.shape[2])
            if any(b - a < min_len for a, b in pairwise(cuts)):
                parts = [
                    hyper_attention(
                        *(x[:, :, a:b] for x in (q, k, v)), causal=causal, scale=scale, mode=mode,
                        num_buckets=num_buckets, window=window, residual=residual, keep=keep,
                        leaf=leaf, min_len=min_len, planes=planes, seed=seed, center=center,
                        return_lse=True,
                    )
                    for a, b in pairwise(cuts)
                ]  # fmt: skip
                out, lse = (torch.cat(rows, 2) for rows in zip(*parts, strict=True))
                return (out, lse) if return_lse else out
        cu_seqlens = cu_seqlens.to("cpu", torch.int64)
    elif min(q.shape[2], k.shape[2]) < min_len:
        if not return_lse and (not causal or q.shape[2] in (1, k.shape[2])) and k.shape[2] > 0:
            # One query sees all keys: causal or not is the same.
            causal = causal and q.shape[2] > 1
            gqa = q.shape[1] != k.shape[1]
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=causal, scale=scale, enable_gqa=gqa
            )
        exact = exact_recipe(k.shape[2])
        mode, num_buckets, keep = exact["mode"], exact["num_buckets"], exact["keep"]
        window, leaf = exact["window"], exact["leaf"]
    pair = torch.tensor([seed, 0]) if isinstance(seed, int) else seed
    normals = None
    if mode == "paper":
        normals = _normals(pair, q, planes, isinstance(seed, int))
    plan = _attention_ops.ops.hyper_plan(
        q.detach(), k.detach(), normals, cu_seqlens, cu_seqlens, mode, causal, center,
        num_buckets, window, residual, keep, leaf, pair,
    )  # fmt: skip
    out, lse = _attention_ops.hyper_attention_fwd(
        q, k, v, *plan, cu_seqlens, cu_seqlens, mode, causal, num_buckets, window, residual, keep,
        leaf, scale,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def automatic_min_len(mode: str, causal: bool, dtype: torch.dtype, device: str) -> int:
    """From how many queries and keys on hyper_attention is faster than torch's exact attention.

    Measured on the CPU (`CPU_MIN_LEN`), elsewhere a model's figure (docs/attention.md).
    """
    if device != "cpu":
        return 8192 if causal else 4096
    return CPU_MIN_LEN[dtype.itemsize]


def _normals(pair: Tensor, q: Tensor, planes: int, constant: bool) -> Tensor:
    """The hyperplanes of mode "paper", drawn on the CPU.

    Those of a constant seed are kept on a GPU, so that a CUDA graph which is captured after a first
    call holds no copy from the host.
    """
    if constant and q.is_cuda and type(q) is Tensor and not torch.compiler.is_compiling():
        return _kept_normals(*pair.tolist(), q.shape[3], planes, str(q.device))
    return _attention_ops.ops.lsh_planes(pair.cpu(), q.shape[3], planes).to(q.device)


@lru_cache(maxsize=16)
def _kept_normals(seed: int, offset: int, dim: int, planes: int, device: str) -> Tensor:
    pair = torch.tensor([seed, offset])
    return _attention_ops.ops.lsh_planes(pair, dim, planes).to(device)


@named
def lsh_bucket(x: Tensor, planes: Tensor, mean: Tensor | None = None) -> Tensor:
    """The bucket of each row by the signs of its products with hyperplanes, in Gray order.

    Bit r of a code is ``(x - mean) @ planes[:, r] > 0``. The bucket is the place of the code in the
    Gray sequence, so that neighbouring buckets differ in one sign.

    Args:
        x: (..., N, D).
        planes: float32 (D, R), the normals, R from 1 to 16.
        mean: (..., D), subtracted from the rows first.

    Returns:
        int32 (..., N), from 0 to 2 ** R - 1. Exact up to the rounding of products near 0.

    Raises:
        ValueError: arguments that do not fit; an x that requires grad is fine, a bucket has none.

    Example::

        >>> thrifty.lsh_bucket(torch.tensor([[1.0, 1.0], [-1.0, 1.0]]), torch.eye(2)).tolist()
        [2, 3]

    References: HyperAttention, arXiv 2310.05869, algorithm 1 (Hamming-sorted LSH).
    """
    return _attention_ops.ops.lsh_bucket(
        x.detach(), planes.detach(), None if mean is None else mean.detach()
    )


@named
def centroid_bucket(x: Tensor, centroids: Tensor, mean: Tensor | None = None) -> Tensor:
    """The centroid of the greatest product with each row, the first of equals.

    ``argmax_c (x - mean) @ centroids[c]``

    Args:
        x: (B, H, N, D).
        centroids: (B, Hkv, C, D); Hkv divides H, head h reads head h // (H // Hkv).
        mean: (B, H, D), subtracted from the rows first.

    Returns:
        int32 (B, H, N). A row with NaN is in bucket 0.

    Raises:
        ValueError: arguments that do not fit.

    Example::

        >>> x, centroids = torch.randn(1, 2, 10, 8), torch.randn(1, 2, 4, 8)
        >>> bucket = thrifty.centroid_bucket(x, centroids)
        >>> torch.equal(bucket, (x @ centroids.mT).argmax(-1).int())
        True
    """
    return _attention_ops.ops.centroid_bucket(
        x.detach(), centroids.detach(), None if mean is None else mean.detach()
    )


@named
def hyper_core(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_order: Tensor,
    q_offsets: Tensor,
    k_order: Tensor,
    windows: Tensor,
    list_k: Tensor | None = None,
    list_v: Tensor | None = None,
    list_logw: Tensor | None = None,
    list_range: Tensor | None = None,
    list_var: Tensor | None = None,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of each query to a window of sorted keys and to a list that all queries share.

    Item w has the queries q_order[q_offsets[w]:q_offsets[w + 1]] and the keys
    k_order[windows[w, 0]:windows[w, 1]], with the scores <q, k> * scale. Entry s of the list has
    the score <q, list_k> * scale + list_logw + scale^2 |q|^2 list_var / 2. One softmax over both.

    Args:
        q: (B, Hq, Nq, D).
        k: (B, Hkv, Nk, D).
        v: (B, Hkv, Nk, Dv).
        q_order: int32 (B, Hq, Nq), a permutation of each head's queries, as `bucket_sort` makes it.
        q_offsets: int32 (B, Hq, W + 1), rising, from 0 to Nq. Queries before the first and after
            the last are in no item: they see the list alone.
        k_order: int32 (B, Hkv, Nk), a permutation of each head's keys.
        windows: int32 (B, Hkv, W, 2), begin and end in k_order.
        list_k, list_v: (B, Hkv, S, D) and (B, Hkv, S, Dv); None: no list.
        list_logw: (B, Hkv, S), float32 (float64), the logarithm of each entry's weight.
        list_range: int32 (B, Hkv, S, 2): the places in k_order that an entry stands for. For a
            query whose window has a share p of them the entry counts 1 - p, and not at all where it
            has them all. Without places, begin = end, it always counts. None: no entry has places.
        list_var: (B, Hkv, S), float32 (float64): the variance of the keys of an entry that is their
            mean. None: 0.
        scale: of the scores; None is D ** -0.5.

    Returns:
        out (B, Hq, Nq, Dv) in q's dtype and lse (B, Hq, Nq), float32 (float64): the logarithm of
        the softmax's denominator. Results over different keys can be merged with it. A query that
        sees nothing has 0 and -inf.

    Differentiable once with respect to q, k, v, list_k, list_v, list_logw and list_var, also
    through lse. Nothing is approximate here: what is chosen is exact. On the CPU, results and
    gradients do not depend on the number of threads.

    Raises:
        ValueError: arguments that do not fit; integers out of range.

    Example::

        >>> q, k, v = torch.randn(3, 1, 2, 100, 16)
        >>> order = torch.arange(100, dtype=torch.int32).expand(1, 2, 100)
        >>> offsets = torch.tensor([0, 50, 100], dtype=torch.int32).expand(1, 2, 3)
        >>> windows = torch.stack([offsets[..., :-1], offsets[..., 1:]], -1)
        >>> out, lse = thrifty.hyper_core(q, k, v, order, offsets, order, windows)
        >>> half = torch.nn.functional.scaled_dot_product_attention(
        ...     q[:, :, 50:], k[:, :, 50:], v[:, :, 50:])
        >>> torch.allclose(out[:, :, 50:], half, atol=1e-5)
        True
    """
    check_heads("hyper_core", q, k, v)
    rest = {
        "list_v": list_v,
        "list_logw": list_logw,
        "list_range": list_range,
        "list_var": list_var,
    }
    for name, value in rest.items():
        if list_k is None and value is not None:
            shape = tuple(value.shape)
            raise ValueError(f"hyper_core: {name}: expected None without list_k, got {shape}")
    scale = q.shape[3] ** -0.5 if scale is None else float(scale)
    return _attention_ops.hyper_core_fwd(
        q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw, list_range,
        list_var, scale,
    )  # fmt: skip
