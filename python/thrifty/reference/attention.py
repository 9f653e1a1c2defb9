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
    weight = 1 << torch.arange(planes.shape[1], device=x.device)
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
    order: Tensor,
    starts: Tensor,
    q_window: Tensor,
    list_k: Tensor | None = None,
    list_v: Tensor | None = None,
    list_logw: Tensor | None = None,
    list_at: Tensor | None = None,
    *,
    window: int,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """See `thrifty.hyper_core`."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    entries = None
    if list_k is not None and list_v is not None and list_logw is not None:
        at = list_logw.new_full(list_logw.shape, -1) if list_at is None else list_at
        spans = torch.stack([at, at + (at >= 0).to(at.dtype)], -1)
        entries = Entries(list_k, list_v, list_logw, None, spans)
    windows = Windows(order, starts, q_window, window, order.shape[-1])
    return _attend(q, k, v, windows, entries, None, scale)


class Windows(NamedTuple):
    """Window w has the sorted keys order[starts[w]], ..., `size` of them or until `total`."""

    order: Tensor  # [B, Hkv, Nk]
    starts: Tensor  # [B, Hkv, windows]
    of_query: Tensor  # [B, Hq, Nq]
    size: int
    total: int

    def ends(self) -> Tensor:
        return (self.starts + self.size).clamp_max(self.total)


class Entries(NamedTuple):
    """What stands for many keys: e^(<q, k> scale + logw + scale^2 |q|^2 var / 2), value v."""

    k: Tensor  # [B, Hkv, S, D]
    v: Tensor  # [B, Hkv, S, Dv]
    logw: Tensor  # [B, Hkv, S]
    var: Tensor | None
    span: Tensor | None  # [B, Hkv, S, 2] of sorted keys: a window that meets it hides the entry


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    windows: Windows,
    entries: Entries | None,
    edges: Entries | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """One softmax over the keys in a query's window, the list, and the window's two own entries."""
    group = q.shape[1] // k.shape[1]

    def spread(x: Tensor) -> Tensor:  # a key head's tensor for each of its query heads
        return x.repeat_interleave(group, 1)

    at = windows.of_query.long()
    begin, end = (
        spread(x.long()).gather(-1, at).unsqueeze(-1) for x in (windows.starts, windows.ends())
    )
    rank = spread(invert(windows.order)).unsqueeze(-2)
    score = q @ spread(k).mT * scale
    score = score.masked_fill((rank < begin) | (rank >= end), -torch.inf)
    if entries is None:
        return softmax_product(score, spread(v))
    half = 0.5 * scale**2 * q.square().sum(-1, keepdim=True)
    entry = q @ spread(entries.k).mT * scale + spread(entries.logw).unsqueeze(-2)
    if entries.var is not None:
        entry = entry + half * spread(entries.var).unsqueeze(-2)
    if entries.span is not None:
        lo, hi = spread(entries.span).unsqueeze(-3).unbind(-1)
        entry = entry.masked_fill((lo < end) & (hi > begin) & (lo < hi), -torch.inf)
    score = torch.cat([score, entry], -1)
    values = torch.cat([spread(v), spread(entries.v)], -2)
    if edges is None:
        return softmax_product(score, values)
    own = [_rows(spread(x).flatten(3), at).unflatten(-1, x.shape[3:]) for x in edges[:2]]
    logw, var = (_rows(spread(x), at) for x in edges[2:4] if x is not None)
    edge = (q.unsqueeze(-2) * own[0]).sum(-1) * scale + logw + half * var
    return softmax_product(score, values, edge, own[1])


def invert(order: Tensor) -> Tensor:
    order = order.long()
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(-1, order, places)


def softmax_product(
    score: Tensor, values: Tensor, own: Tensor | None = None, own_values: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(score) @ values and logsumexp(score); a row that sees nothing is 0 and -inf.

    `own` scores [..., N, S] are of values [..., N, S, Dv] that a row has for itself.
    """
    shared = score.shape[-1]
    score = score if own is None else torch.cat([score, own], -1)
    seen = (score > -torch.inf).any(-1, keepdim=True) | score.isnan().any(-1, keepdim=True)
    lse = torch.where(seen, score, 0).logsumexp(-1, keepdim=True)
    weight = torch.where(seen, (score - lse).exp(), 0)
    # What no row looks at must not count, and 0 * NaN is NaN.
    looked = (weight[..., :shared] != 0).any(-2).unsqueeze(-1)
    out = weight[..., :shared] @ torch.where(looked, values, 0)
    if own_values is not None:
        out = out + (weight[..., shared:, None] * own_values).sum(-2)
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
    seed: int = 0,
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
        rows = [x[:, :, a:b] for x in (q, k, v)] if cu_seqlens is not None else [q, k, v]
        parts.append(_sequence(*rows, recipe, causal, leaf, min_len or 0))
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
    seed: int
    center: bool


def _sequence(
    q: Tensor, k: Tensor, v: Tensor, recipe: Recipe, causal: bool, leaf: int, min_len: int
) -> tuple[Tensor, Tensor]:
    n, past = k.shape[2], k.shape[2] - q.shape[2]
    if n == 0 or q.shape[2] == 0 or n < min_len:
        return _exact(q, k, v, recipe.scale, causal)
    if not causal:
        return _node(q, k, v, q, recipe, 0)
    # Rows are the queries at positions past, past + 1, ...: first the leaves on the diagonal.
    leaves = []
    for a in range(0, n, leaf):
        b = min(a + leaf, n)
        rows = slice(max(a - past, 0), max(b - past, 0))
        leaves.append(_exact(q[:, :, rows], k[:, :, a:b], v[:, :, a:b], recipe.scale, True))
    out, lse = (torch.cat(tensors, 2) for tensors in zip(*leaves, strict=True))
    for node in plan.nodes(n, leaf):
        begin, end = max(node.middle - past, 0), node.end - past
        if begin >= end:
            continue
        left = slice(node.begin, node.middle)
        probes = q[:, :, max(node.begin - past, 0) : begin]
        rows = q[:, :, begin:end]
        part, part_lse = _node(
            rows, k[:, :, left], v[:, :, left], probes, recipe, node.middle // leaf
        )
        part = F.pad(part, (0, 0, begin, q.shape[2] - end))
        part_lse = F.pad(part_lse, (begin, q.shape[2] - end), value=-torch.inf)
        out, lse = _merge(out, lse, part, part_lse)
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


def _node(
    q: Tensor, k: Tensor, v: Tensor, probes: Tensor, recipe: Recipe, number: int
) -> tuple[Tensor, Tensor]:
    """Every query looks at every key: the approximate part. `probes`: see `means_node`."""
    make = {"paper": paper_node, "means": means_node}[recipe.mode]
    return _attend(q, k, v, *make(q, k, v, probes, recipe, number), recipe.scale)


Chosen = tuple[Windows, Entries, Entries | None]


def paper_node(
    q: Tensor, k: Tensor, v: Tensor, probes: Tensor, recipe: Recipe, number: int
) -> Chosen:
    """HyperAttention as published: equal blocks of sorted queries and sorted keys, and a sample.

    Window w of nb = ceil(Nk / window) starts at sorted key w * window, the last one at
    Nk - window, and is read by the queries of rank w Nq / nb to (w + 1) Nq / nb, rounded down. The
    sample is drawn among the sorted keys, weighs Nk / residual, and counts for a query whose window
    does not have it.
    """
    nq, nk = q.shape[2], k.shape[2]
    planes = plan.lsh_planes(recipe.seed, q.shape[-1], recipe.planes).to(q.device)
    order, k_order = (
        bucket_sort(lsh_bucket(x.detach(), planes), 2**recipe.planes)[0] for x in (q, k)
    )
    blocks = math.ceil(nk / recipe.window)
    starts = (torch.arange(blocks, device=q.device) * recipe.window).clamp_max(
        max(nk - recipe.window, 0)
    )
    ends = torch.arange(1, blocks + 1, device=q.device) * nq // blocks
    windows = Windows(
        k_order,
        starts.expand(*k.shape[:2], blocks),
        torch.searchsorted(ends, invert(order), right=True),
        recipe.window,
        nk,
    )
    rank = plan.residual_ranks(recipe.seed, number, nk, recipe.residual).to(q.device)
    rank = rank.expand(*k.shape[:2], rank.shape[0])
    key = k_order.long().gather(-1, rank)
    weight = math.log(nk / rank.shape[-1]) if rank.shape[-1] else 0.0
    logw = torch.full_like(key, weight, dtype=q.dtype)
    span = torch.stack([rank, rank + 1], -1)
    return windows, Entries(_rows(k, key), _rows(v, key), logw, None, span), None


def means_node(
    q: Tensor, k: Tensor, v: Tensor, probes: Tensor, recipe: Recipe, number: int
) -> Chosen:
    """Buckets around centroids; a window around the query's own bucket; all else by bucket means.

    1. kc = k - mean of k (center), and `buckets` centroids of kc.
    2. The `keep` keys of the greatest <kc, sum of the probes of all heads of the group> leave the
       buckets; every query looks at them. Probes: all queries, or, where causal, those at the
       positions of the node's keys; the first keys where there are none.
    3. A key is in the bucket of the centroid nearest to kc, a query reads the window of the bucket
       whose centroid is nearest to q.
    4. n keys outside the window add n e^(<q, mean k> scale + scale^2 |q|^2 var / 2) with the value
       mean v, var = (mean |k|^2 - |mean k|^2) / D: each bucket that the window does not meet, and,
       for each of the up to two that it cuts, what it leaves.
    """
    group = q.shape[1] // k.shape[1]
    keys = k.detach()
    kc = keys - keys.mean(-2, keepdim=True) if recipe.center else keys
    buckets = plan.bucket_count(k.shape[2], recipe.num_buckets)
    centroids = plan.make_centroids(kc, buckets, recipe.seed, number)
    probe = probes.detach().sum(-2).unflatten(1, (k.shape[1], group)).sum(2)
    kept = plan.kept_keys(kc, probe if probes.shape[2] else None, recipe.keep)
    bucket = centroid_bucket(kc, centroids).long().scatter(-1, kept, buckets)
    order, offsets = bucket_sort(bucket, buckets)
    starts = plan.bucket_starts(offsets, recipe.window)
    total = k.shape[2] - kept.shape[-1]
    windows = Windows(order, starts, centroid_bucket(q.detach(), centroids), recipe.window, total)
    inside = F.one_hot(bucket, buckets + 1)[..., :buckets].mT  # [B, Hkv, buckets, Nk]
    mean_k, mean_v, logw, var = _means(k, v, inside)
    span = torch.stack([offsets[..., :-1], offsets[..., 1:]], -1)
    nothing = logw.new_zeros(kept.shape)
    entries = Entries(
        torch.cat([_rows(k, kept), mean_k], 2),
        torch.cat([_rows(v, kept), mean_v], 2),
        torch.cat([nothing, logw], 2),
        torch.cat([nothing, var], 2),
        torch.cat([span.new_zeros(*kept.shape, 2), span], 2),
    )
    return windows, entries, _edges(k, v, windows, offsets.long())


def _edges(k: Tensor, v: Tensor, windows: Windows, offsets: Tensor) -> Entries:
    """Of each window the two buckets that it cuts, without the keys in it: [B, Hkv, windows, 2]."""
    begin, end = windows.starts, windows.ends()
    last_bucket = offsets.shape[-1] - 2

    def bucket_at(rank: Tensor) -> Tensor:
        found = torch.searchsorted(offsets.contiguous(), rank.contiguous(), right=True) - 1
        return found.clamp(0, last_bucket)

    first, last = bucket_at(begin), bucket_at(end - 1)
    lo = offsets.gather(-1, torch.cat([first, last], -1)).unflatten(-1, (2, -1))
    hi = offsets.gather(-1, torch.cat([first, last], -1) + 1).unflatten(-1, (2, -1))
    twice = torch.stack([torch.zeros_like(first, dtype=torch.bool), first == last], -2)
    rank = invert(windows.order)[..., None, None, :]
    left = (rank >= lo[..., None]) & (rank < hi[..., None]) & ~twice[..., None]
    met = (rank >= begin[..., None, :, None]) & (rank < end[..., None, :, None])
    left = left & ~met & (end > begin)[..., None, :, None]
    left = left.transpose(2, 3).flatten(2, 3)  # [B, Hkv, windows * 2, Nk]
    parts = (x.unflatten(2, (-1, 2)) for x in _means(k, v, left))
    return Entries(*parts, None)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(2, index.unsqueeze(-1).expand(*index.shape, x.shape[-1]))


def _means(k: Tensor, v: Tensor, member: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean key and value, log of the count and variance of sets of keys, member [B, Hkv, S, Nk]."""
    member = member.to(k.dtype)
    count = member.sum(-1, keepdim=True)
    share = member / count.clamp_min(1)
    mean_k, mean_v = share @ k, share @ v
    spread = share @ k.square().sum(-1, keepdim=True) - mean_k.square().sum(-1, keepdim=True)
    var = torch.where(count > 1, spread.clamp_min(0) / k.shape[-1], 0)
    return mean_k, mean_v, count.log().squeeze(-1), var.squeeze(-1)
