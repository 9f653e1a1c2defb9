"""The definitions of `thrifty.attention` in plain PyTorch."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty.reference import attention_plan as plan
from thrifty.reference.moe import bucket_sort


def lsh_bucket(x: Tensor, planes: Tensor, mean: Tensor | None = None) -> Tensor:
    """See `thrifty.lsh_bucket`."""
    x = x if mean is None else x - mean.unsqueeze(-2)
    bits = (x @ planes.to(x.dtype) > 0).long()
    weight = 1 << torch.arange(planes.shape[-1], device=x.device)
    return plan.gray_rank((bits * weight).sum(-1)).int()


def centroid_bucket(x: Tensor, centroids: Tensor, mean: Tensor | None = None) -> Tensor:
    """See `thrifty.centroid_bucket`."""
    x = x if mean is None else x - mean.unsqueeze(-2)
    group = x.shape[1] // centroids.shape[1]
    return plan.nearest(x, centroids.to(x.dtype).repeat_interleave(group, 1)).int()


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
    """See `thrifty.hyper_core`."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    group = q.shape[1] // k.shape[1]

    def spread(x: Tensor) -> Tensor:  # a key head's tensor for each of its query heads
        return x.repeat_interleave(group, 1)

    # The item that owns each query (-1: none) and the rank of each key in k_order.
    rank_q = invert(q_order)
    item = torch.searchsorted(q_offsets[..., 1:].contiguous(), rank_q, right=True)
    owned = item < windows.shape[-2]
    window = spread(windows).gather(
        -2, item.clamp_max(windows.shape[-2] - 1)[..., None].expand(*item.shape, 2)
    )
    window = torch.where(owned[..., None], window, 0)
    begin, end = window[..., :1], window[..., 1:]
    rank_k = spread(invert(k_order)).unsqueeze(-2)
    score = (q @ spread(k).mT * scale).masked_fill((rank_k < begin) | (rank_k >= end), -torch.inf)
    values = spread(v)
    if list_k is not None:
        assert list_v is not None
        assert list_logw is not None
        entry = q @ spread(list_k).mT * scale + spread(list_logw).unsqueeze(-2)
        if list_var is not None:
            entry = entry + 0.5 * scale**2 * q.square().sum(-1, keepdim=True) * spread(
                list_var
            ).unsqueeze(-2)
        if list_range is not None:
            lo, hi = spread(list_range).unsqueeze(-3).unbind(-1)
            covered = (torch.minimum(end, hi) - torch.maximum(begin, lo)).clamp_min(0)
            left = 1 - covered.to(q.dtype) / (hi - lo).clamp_min(1).to(q.dtype)
            entry = (entry + left.clamp_min(1e-30).log()).masked_fill(left == 0, -torch.inf)
        score = torch.cat([score, entry], -1)
        values = torch.cat([values, spread(list_v)], -2)
    return softmax_product(score, values)


def invert(order: Tensor) -> Tensor:
    order = order.long()
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)


def softmax_product(score: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(score) @ values and logsumexp(score); a row that sees nothing is 0 and -inf."""
    seen = (score > -torch.inf).any(-1, keepdim=True) | score.isnan().any(-1, keepdim=True)
    lse = torch.where(seen, score, 0).logsumexp(-1, keepdim=True)
    weight = torch.where(seen, (score - lse).exp(), 0)
    # What a row does not look at must not count for it, and 0 * NaN is NaN.
    bad = ~values.isfinite()
    out = weight @ values.masked_fill(bad, 0)
    if bad.any():
        looked = (weight != 0).to(values.dtype)
        out = out.masked_fill(looked @ bad.to(values.dtype) > 0, torch.nan)
    return out, torch.where(seen, lse, -torch.inf).squeeze(-1)


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
    min_len: int | None = 0,
    planes: int = 7,
    seed: int | Tensor = 0,
    center: bool = True,
    return_lse: bool = False,
    deterministic: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """See `thrifty.hyper_attention`; min_len=None means 0."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    recipe = Recipe(mode, scale, num_buckets, window, residual, keep, planes, seed, center)
    cuts = [0, q.shape[2]] if cu_seqlens is None else cu_seqlens.tolist()
    parts = []
    for a, b in pairwise(cuts):
        part = (q, k, v)
        if cu_seqlens is not None:
            part = (q[:, :, a:b], k[:, :, a:b], v[:, :, a:b])
        parts.append(_sequence(*part, recipe, causal, leaf, min_len or 0))
    if not parts:
        parts = [_exact(q, k, v, scale, causal)]
    out, lse = (torch.cat(tensors, 2) for tensors in zip(*parts, strict=True))
    return (out, lse) if return_lse else out


class Recipe(NamedTuple):
    mode: str
    scale: float
    num_buckets: int
    window: int
    residual: int
    keep: int
    planes: int
    seed: int | Tensor
    center: bool


def _sequence(
    q: Tensor, k: Tensor, v: Tensor, recipe: Recipe, causal: bool, leaf: int, min_len: int
) -> tuple[Tensor, Tensor]:
    n, past = k.shape[2], k.shape[2] - q.shape[2]
    if n == 0 or q.shape[2] == 0 or n < min_len:
        return _exact(q, k, v, recipe.scale, causal)
    if not causal:
        return _square(q, k, v, q, recipe, 0)
    # Rows are the queries at positions past, past + 1, ...: first the leaves on the diagonal.
    leaves = []
    for a in range(0, n, leaf):
        b = min(a + leaf, n)
        rows = slice(max(a - past, 0), max(b - past, 0))
        leaves.append(_exact(q[:, :, rows], k[:, :, a:b], v[:, :, a:b], recipe.scale, True))
    out, lse = (torch.cat(tensors, 2) for tensors in zip(*leaves, strict=True))
    for square in plan.squares(n, leaf):
        begin, end = max(square.middle - past, 0), square.end - past
        if begin >= end:
            continue
        left = slice(square.begin, square.middle)
        earlier = q[:, :, max(square.begin - past, 0) : max(square.middle - past, 0)]
        part = _square(
            q[:, :, begin:end], k[:, :, left], v[:, :, left], earlier, recipe, square.middle // leaf
        )
        more = F.pad(part[0], (0, 0, begin, q.shape[2] - end))
        total = F.pad(part[1], (begin, q.shape[2] - end), value=-torch.inf)
        out, lse = _merge(out, lse, more, total)
    return out, lse


def _merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.logaddexp(lse, more_lse)
    return (
        out * (lse - total).exp().unsqueeze(-1) + more * (more_lse - total).exp().unsqueeze(-1),
        total,
    )


def _exact(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention; where it is causal, the queries are those of the last positions."""
    group = max(q.shape[1] // max(k.shape[1], 1), 1)
    score = q @ k.repeat_interleave(group, 1).mT * scale
    if causal:
        past = k.shape[2] - q.shape[2]
        later = torch.ones(score.shape[-2:], dtype=torch.bool, device=q.device).triu(past + 1)
        score = score.masked_fill(later, -torch.inf)
    if score.shape[-1] == 0:
        return q.new_zeros(*q.shape[:-1], v.shape[-1]), q.new_full(q.shape[:-1], -torch.inf)
    return softmax_product(score, v.repeat_interleave(group, 1))


def _square(
    q: Tensor, k: Tensor, v: Tensor, earlier: Tensor, recipe: Recipe, node: int
) -> tuple[Tensor, Tensor]:
    """Every query looks at every key: the approximate part. `earlier`: queries for the probe."""
    make = {"paper": paper_plan, "means": means_plan}[recipe.mode]
    return hyper_core(q, k, v, *make(q, k, v, earlier, recipe, node), scale=recipe.scale)


def paper_plan(
    q: Tensor, k: Tensor, v: Tensor, earlier: Tensor, recipe: Recipe, node: int
) -> tuple:
    """HyperAttention as published: equal blocks of sorted queries and sorted keys, and a sample.

    Block i of nb = ceil(Nk / window) has the keys of rank [b, b + window), b = i * window, for the
    last block Nk - window, and the queries of rank i Nq / nb to (i + 1) Nq / nb, rounded down. The
    sample is drawn among the sorted keys, weighs Nk / residual, and an entry counts for the queries
    whose window does not have it.
    """
    nq, nk = q.shape[2], k.shape[2]
    planes = plan.lsh_planes(recipe.seed, q.shape[-1], recipe.planes).to(q.device)
    q_order, _ = bucket_sort(lsh_bucket(q.detach(), planes), 2**recipe.planes)
    k_order, _ = bucket_sort(lsh_bucket(k.detach(), planes), 2**recipe.planes)
    blocks = math.ceil(nk / recipe.window)
    index = torch.arange(blocks, device=q.device)
    q_offsets = (torch.arange(blocks + 1, device=q.device) * nq // blocks).int()
    begin = torch.minimum(index * recipe.window, torch.tensor(nk - recipe.window)).clamp_min(0)
    windows = torch.stack([begin, (begin + recipe.window).clamp_max(nk)], -1).int()
    core = (
        q_order,
        q_offsets.expand(*q.shape[:2], blocks + 1),
        k_order,
        windows.expand(*k.shape[:2], blocks, 2),
    )
    if recipe.residual == 0:
        return core
    rank = plan.residual_ranks(recipe.seed, node, nk, recipe.residual).to(q.device)
    rank = rank.expand(*k.shape[:2], recipe.residual)
    key = k_order.long().gather(-1, rank)
    logw = torch.full_like(key, math.log(nk / recipe.residual), dtype=q.dtype)
    return (*core, _rows(k, key), _rows(v, key), logw, torch.stack([rank, rank + 1], -1))


def means_plan(
    q: Tensor, k: Tensor, v: Tensor, earlier: Tensor, recipe: Recipe, node: int
) -> tuple:
    """Buckets around centroids; a window around the query's own bucket; all else by bucket means.

    1. kc = k - mean of k (center), and `buckets` centroids of kc.
    2. The `keep` keys of the greatest <kc, sum of the earlier queries of all heads of the group>
       leave the buckets and are looked at by every query.
    3. A key is in the bucket of the centroid nearest to kc, a query in that nearest to q.
    4. A bucket of n keys that are not all in the query's window adds, with n' of them outside,
       n' exp(<q, mean k> scale + scale^2 |q|^2 var / 2) with value mean v, where
       var = (mean |k|^2 - |mean k|^2) / D; the means are of all n.
    """
    group = q.shape[1] // k.shape[1]
    keys = k.detach()
    kc = keys - keys.mean(-2, keepdim=True) if recipe.center else keys
    buckets = plan.bucket_count(k.shape[2], recipe.num_buckets)
    centroids = plan.make_centroids(kc, buckets, recipe.seed, node)
    probe = earlier.detach().sum(-2).unflatten(1, (k.shape[1], group)).sum(2)
    kept = plan.kept_keys(kc, probe if earlier.shape[2] else None, recipe.keep)
    k_bucket = centroid_bucket(kc, centroids).long().scatter(-1, kept, buckets)
    k_order, k_offsets = bucket_sort(k_bucket, buckets)
    q_order, q_offsets = bucket_sort(centroid_bucket(q.detach(), centroids), buckets)
    windows = plan.bucket_windows(k_offsets, recipe.window)
    means = recipe.residual > 0
    mean_k, mean_v, logw, var = _bucket_means(k, v, k_bucket, buckets)
    ranges = torch.stack([k_offsets[..., :-1], k_offsets[..., 1:]], -1).long()
    count = kept.shape[-1]
    none = logw.new_zeros(*logw.shape[:2], count)
    if not means:
        mean_k, mean_v, logw, var, ranges = (
            x[:, :, :0] for x in (mean_k, mean_v, logw, var, ranges)
        )
    return (
        q_order,
        q_offsets,
        k_order,
        windows,
        torch.cat([_rows(k, kept), mean_k], 2),
        torch.cat([_rows(v, kept), mean_v], 2),
        torch.cat([none, logw], 2),
        torch.cat([ranges.new_zeros(*ranges.shape[:2], count, 2), ranges], 2),
        torch.cat([none, var], 2),
    )


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))


def _bucket_means(
    k: Tensor, v: Tensor, bucket: Tensor, buckets: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean key, mean value, log of the count and variance of each bucket."""
    member = F.one_hot(bucket, buckets + 1)[..., :buckets].to(k.dtype).mT
    count = member.sum(-1, keepdim=True)
    mean_k, mean_v = member @ k / count.clamp_min(1), member @ v / count.clamp_min(1)
    square = member @ k.square().sum(-1, keepdim=True) / count.clamp_min(1)
    var = (square - mean_k.square().sum(-1, keepdim=True)).clamp_min(0) / k.shape[-1]
    return mean_k, mean_v, count.log().squeeze(-1), var.squeeze(-1)
