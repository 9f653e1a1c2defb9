"""The definitions of `thrifty.moe` in plain PyTorch."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def bucket_sort(ids: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    """See `thrifty.bucket_sort`."""
    ids = ids.long()
    inside = torch.where((ids >= 0) & (ids < buckets), ids, buckets)
    order = torch.sort(inside, dim=-1, stable=True).indices
    counts = inside.new_zeros(*ids.shape[:-1], buckets + 1)
    counts = counts.scatter_add(-1, inside, torch.ones_like(inside))[..., :buckets]
    return order.int(), F.pad(counts.cumsum(-1), (1, 0)).int()


def moe_route(
    logits: Tensor,
    top_k: int,
    *,
    score: str = "softmax",
    renorm: bool = False,
    scale: float = 1.0,
    bias: Tensor | None = None,
    expert_mask: Tensor | None = None,
    n_group: int = 1,
    topk_group: int = 1,
    group_topn: int = 2,
    stats: bool = False,
    threshold: float = 0.0,
) -> tuple[Tensor, ...]:
    """See `thrifty.moe_route`."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if expert_mask is not None:
        logits = logits.masked_fill(~expert_mask.bool(), -torch.inf)
    scores = {
        "softmax": lambda: logits.softmax(-1),
        "sigmoid": logits.sigmoid,
        "topk_softmax": lambda: logits,
    }[score]()
    choice = (scores if bias is None else scores + bias).detach()
    choice = choice.masked_fill(choice.isnan(), -torch.inf)
    barred = torch.zeros_like(choice, dtype=torch.bool)
    if expert_mask is not None:
        barred |= ~expert_mask.bool()
    if topk_group < n_group:
        groups = choice.masked_fill(barred, -torch.inf).unflatten(-1, (n_group, -1))
        best = groups.sort(dim=-1, descending=True).values[..., :group_topn]
        first = torch.arange(best.shape[-1], device=best.device) == 0
        best = torch.where(best.isneginf() & ~first, 0, best).sum(-1)  # absent experts add nothing
        kept = best.sort(dim=-1, descending=True, stable=True).indices[..., :topk_group]
        open_groups = torch.zeros_like(best, dtype=torch.bool).scatter(-1, kept, True)
        barred |= ~open_groups.repeat_interleave(groups.shape[-1], -1)
    rank = (
        torch.where(barred, -torch.inf, choice).sort(dim=-1, descending=True, stable=True).indices
    )
    # A stable sort by "barred" puts the barred ones last, also behind the NaN.
    rank = rank.gather(-1, barred.gather(-1, rank).int().sort(dim=-1, stable=True).indices)
    ids = rank[:, :top_k]
    absent = barred.gather(-1, ids)
    weights = scores.gather(-1, ids)
    if score == "topk_softmax":
        weights = weights.masked_fill(absent, -torch.inf).softmax(-1)
    weights = weights.masked_fill(absent, 0)
    if renorm and score != "topk_softmax":
        weights = weights / (weights.sum(-1, keepdim=True) + (1e-20 if score == "sigmoid" else 0))
    weights = (weights * scale).masked_fill(absent, 0)
    chosen = ids.masked_fill(absent, -1).int()
    if not stats:
        return weights, chosen
    picked = logits.detach().gather(-1, ids)
    counted = ~absent & (picked.masked_fill(absent, -torch.inf).softmax(-1) >= threshold)
    total = logits.new_zeros(logits.shape[1]).index_add(0, ids[counted], picked[counted])
    count = torch.bincount(ids[counted], minlength=logits.shape[1]).int()
    return weights, chosen, total, count


def moe_permute(
    ids: Tensor,
    num_experts: int,
    *,
    expert_map: Tensor | None = None,
    capacity: int | None = None,
    priority: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """See `thrifty.moe_permute`."""
    ids = ids.flatten().long()
    if expert_map is not None:
        known = (ids >= 0) & (ids < expert_map.shape[0])
        ids = torch.where(known, expert_map.long()[ids.clamp(0, expert_map.shape[0] - 1)], -1)
    ids = torch.where((ids >= 0) & (ids < num_experts), ids, num_experts)
    if capacity is not None:
        order = torch.arange(ids.numel(), device=ids.device)
        if priority is not None:
            order = priority.flatten().nan_to_num(-torch.inf).sort(descending=True, stable=True)[1]
        for expert in range(num_experts):
            ids[order[ids[order] == expert][capacity:]] = num_experts
    slot, offsets = bucket_sort(ids, num_experts)
    inverse = torch.empty_like(slot)
    inverse[slot.long()] = torch.arange(ids.numel(), device=ids.device, dtype=torch.int32)
    return slot, offsets, inverse


def grouped_mm(
    a: Tensor,
    b: Tensor,
    offs: Tensor,
    *,
    a_idx: Tensor | None = None,
    bias: Tensor | None = None,
    row_scale: Tensor | None = None,
    accumulate: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """See `thrifty.grouped_mm`."""
    ends = [0, *offs.tolist()]
    if b.dim() == 2:
        parts = [a[:, i:j] @ b[i:j] for i, j in pairwise(ends)]
        return torch.stack(parts)
    rows = a if a_idx is None else a[a_idx.long()]
    parts = []
    for e, (i, j) in enumerate(pairwise(ends)):
        part = rows[i:j] @ b[e]
        parts.append(part if bias is None else part + bias[e])
    parts.append(rows.new_zeros(rows.shape[0] - ends[-1], b.shape[2]))
    out = torch.cat(parts)
    if row_scale is not None:
        out = torch.cat([out[: ends[-1]] * row_scale[: ends[-1], None], out[ends[-1] :]])
    return out if accumulate is None else out + accumulate


def activate(z: Tensor, activation: str, interleaved: bool, alpha: float, limit: float) -> Tensor:
    """The activations of `moe_mlp`."""
    functions: dict[str, Callable[..., Tensor]] = {
        "swiglu": F.silu,
        "swiglu_clamp": F.silu,
        "geglu": F.gelu,
        "geglu_tanh": lambda g: F.gelu(g, approximate="tanh"),
        "reglu": F.relu,
        "silu": F.silu,
        "gelu": F.gelu,
        "gelu_tanh": lambda g: F.gelu(g, approximate="tanh"),
        "relu": F.relu,
        "relu2": lambda g: F.relu(g).square(),
    }
    if "glu" not in activation:
        return functions[activation](z)
    gate, up = (z[..., ::2], z[..., 1::2]) if interleaved else z.chunk(2, -1)
    if activation in ("swiglu_clamp", "swiglu_oai"):
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    if activation == "swiglu_oai":
        return (up + 1) * gate * torch.sigmoid(alpha * gate)
    return functions[activation](gate) * up


def moe_mlp(
    x: Tensor,
    w1: Tensor,
    w2: Tensor,
    ids: Tensor,
    weights: Tensor,
    *,
    b1: Tensor | None = None,
    b2: Tensor | None = None,
    activation: str = "swiglu",
    transposed: bool = False,
    interleaved: bool = False,
    alpha: float = 1.702,
    limit: float = 7.0,
    expert_map: Tensor | None = None,
    recompute: bool = False,
) -> Tensor:
    """See `thrifty.moe_mlp`."""
    if not transposed:
        w1, w2 = w1.transpose(1, 2), w2.transpose(1, 2)
    ids = ids.long()
    if expert_map is not None:
        known = (ids >= 0) & (ids < expert_map.shape[0])
        ids = torch.where(known, expert_map.long()[ids.clamp(0, expert_map.shape[0] - 1)], -1)
    out = torch.zeros_like(x)
    for e in range(w1.shape[0]):
        token, choice = torch.nonzero(ids == e, as_tuple=True)
        z = x[token] @ w1[e] + (0 if b1 is None else b1[e])
        y = activate(z, activation, interleaved, alpha, limit) @ w2[e]
        y = (y + (0 if b2 is None else b2[e])) * weights[token, choice, None]
        out = out.index_add(0, token, y.to(out.dtype))
    return out


def token_topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """See `thrifty.token_topk`."""
    ranked = scores.detach().masked_fill(scores.isnan(), -torch.inf)
    # A stable sort keeps the lower index; a NaN ranks below -inf.
    order = scores.isnan().long().sort(dim=-1, stable=True)[1]
    order = order.gather(-1, ranked.gather(-1, order).sort(dim=-1, descending=True, stable=True)[1])
    index = order[..., :k].sort(-1)[0]
    return scores.gather(-1, index), index


def _inside(index: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Which indices exist; the others name the row that `F.pad` puts behind the last."""
    length = x.shape[-2]
    inside = ((index >= 0) & (index < length)).unsqueeze(-1)
    at = index.long().unsqueeze(-1).where(inside, length)
    return at.expand(*index.shape, x.shape[-1]), inside


def gather_rows(x: Tensor, index: Tensor, weights: Tensor | None = None) -> Tensor:
    """See `thrifty.gather_rows`."""
    at, inside = _inside(index, x)
    rows = F.pad(x, (0, 0, 0, 1)).gather(-2, at)
    return rows if weights is None else (rows * weights.unsqueeze(-1)).where(inside, 0)


def scatter_add_rows(
    x: Tensor, index: Tensor, src: Tensor, weights: Tensor | None = None
) -> Tensor:
    """See `thrifty.scatter_add_rows`."""
    at, inside = _inside(index, x)
    src = src if weights is None else (src * weights.unsqueeze(-1)).where(inside, 0)
    return F.pad(x, (0, 0, 0, 1)).scatter_add(-2, at, src.to(x.dtype))[..., :-1, :]
