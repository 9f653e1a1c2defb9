"""What torch has to know about the moe ops: shapes, gradients, vmap. Their schemas and kernels come
with the native library (csrc/moe/ops.cpp)."""

from typing import Any

import torch
from torch import Tensor

from thrifty import _library  # noqa: F401  defines the ops
from thrifty._fake_outputs import integers, sums
from thrifty._transforms import differentiable, differentiable_no_more, sliced

ops = torch.ops.thrifty


# ---- sorting


@torch.library.register_fake("thrifty::bucket_sort")
def _(ids: Tensor, buckets: int) -> tuple[Tensor, Tensor]:
    return integers(ids, *ids.shape), integers(ids, *ids.shape[:-1], buckets + 1)


@torch.library.register_fake("thrifty::moe_permute")
def _(ids, num_experts, expert_map, capacity, priority):  # type: ignore[no-untyped-def]
    slots = ids.numel()
    return integers(ids, slots), integers(ids, num_experts + 1), integers(ids, slots)


torch.library.register_vmap("thrifty::bucket_sort", sliced(ops.bucket_sort))
torch.library.register_vmap("thrifty::moe_permute", sliced(ops.moe_permute))


# ---- moe_route: logits, bias, expert_mask, top_k, score, renorm, scale, 3 of groups, 2 of stats


@torch.library.register_fake("thrifty::moe_route_fwd")
def _(  # type: ignore[no-untyped-def]
    logits, bias, expert_mask, top_k, score, renorm, scale, n_group, topk_group, group_topn, stats,
    threshold,
):  # fmt: skip
    torch._check(logits.dim() == 2, lambda: "moe_route: logits: expected (T, E)")
    tokens, experts = logits.shape[0], logits.shape[1] if stats else 0
    return (
        sums(logits, tokens, top_k),
        integers(logits, tokens, top_k),
        sums(logits, experts),
        integers(logits, experts),
    )


@torch.library.register_fake("thrifty::moe_route_bwd")
def _(grad, logits, expert_mask, ids, score, renorm, scale):  # type: ignore[no-untyped-def]
    return logits.new_empty(logits.shape)


def _setup_route(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, ids, score_sum, count = output
    ctx.mark_non_differentiable(ids, score_sum, count)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(inputs[0], inputs[2], ids)
    ctx.constants = inputs[4:7]


def _backward_route(ctx: Any, grad: Tensor | None, *_: None) -> tuple:
    if grad is None:
        return (None,) * 12
    logits, expert_mask, ids = ctx.saved_tensors
    dlogits = moe_route_bwd(grad, logits, expert_mask, ids, *ctx.constants)
    return dlogits, *[None] * 11


moe_route_fwd = differentiable("moe_route_fwd", _setup_route, _backward_route)
moe_route_bwd = differentiable_no_more("moe_route_bwd", "moe_route")


# ---- grouped_mm: a, b, offs, a_idx, bias, row_scale, accumulate, float32_out


@torch.library.register_fake("thrifty::grouped_mm")
def _(a, b, offs, a_idx, bias, row_scale, accumulate, float32_out):  # type: ignore[no-untyped-def]
    torch._check(a.dim() == 2, lambda: "grouped_mm: a: expected 2 dimensions")
    dtype = torch.float32 if float32_out else a.dtype
    if b.dim() == 2:
        return a.new_empty((offs.shape[0], a.shape[0], b.shape[1]), dtype=dtype)
    rows = a.shape[0] if a_idx is None else a_idx.shape[0]
    return a.new_empty((rows, b.shape[2]), dtype=dtype)


def _setup_grouped(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:6])


def _group_of_rows(offs: Tensor, rows: int) -> Tensor:
    """The group of each row; rows behind the last offset get the number of groups."""
    at = torch.arange(rows, device=offs.device, dtype=offs.dtype)
    return torch.searchsorted(offs.contiguous(), at, right=True)


def _segment_sums(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    wide = rows.to(sums(rows).dtype)
    return wide.new_zeros(groups + 1, rows.shape[1]).index_add(0, group, wide)[:groups]


def _backward_grouped(ctx: Any, grad: Tensor) -> tuple:
    a, b, offs, a_idx, bias, row_scale = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad_in = grad.to(a.dtype)
    da = db = dbias = dscale = None
    if b.dim() == 2:
        # out_e = a_e b_e: da_e = g_e b_e^T, db_e = a_e^T g_e; both go to the columns' groups.
        if needs[0]:
            da = grouped_mm(b, grad_in.mT, offs, None, None, None, None, False).mT
        if needs[1]:
            db = grouped_mm(a.mT, grad_in, offs, None, None, None, None, False)
        return da, db, *[None] * 6
    group = _group_of_rows(offs, grad.shape[0])
    if row_scale is not None and needs[5]:
        plain = grouped_mm(a, b, offs, a_idx, bias, None, None, False)
        dscale = (grad_in * plain).sum(-1, dtype=sums(a).dtype).to(row_scale.dtype)
    scaled = grad_in
    if row_scale is not None:
        scaled = (grad_in * row_scale.unsqueeze(-1)).to(a.dtype)
    if needs[0]:
        da = grouped_mm(scaled, b.mT, offs, None, None, None, None, False)
        if a_idx is not None:
            rows = da.to(sums(da).dtype)
            da = rows.new_zeros(a.shape).index_add(0, a_idx, rows).to(a.dtype)
    if needs[1]:
        rows = a if a_idx is None else a.index_select(0, a_idx)
        db = grouped_mm(rows.mT, scaled, offs, None, None, None, None, False)
    if bias is not None and needs[4]:
        dbias = _segment_sums(scaled, group, b.shape[0]).to(bias.dtype)
    return da, db, None, None, dbias, dscale, grad_in if needs[6] else None, None


grouped_mm = differentiable("grouped_mm", _setup_grouped, _backward_grouped)


# ---- moe_mlp: x, w1, w2, ids, weights, b1, b2, expert_map, then 5 constants and save_z


@torch.library.register_fake("thrifty::moe_mlp_fwd")
def _(  # type: ignore[no-untyped-def]
    x, w1, w2, ids, weights, b1, b2, expert_map, activation, transposed, interleaved, alpha, limit,
    save_z,
):  # fmt: skip
    torch._check(w1.dim() == 3, lambda: "moe_mlp: w1: expected 3 dimensions")
    up_rows = w1.shape[2 if transposed else 1]
    return x.new_empty(x.shape), x.new_empty((up_rows, ids.numel()) if save_z else (0,))


@torch.library.register_fake("thrifty::moe_mlp_bwd")
def _(  # type: ignore[no-untyped-def]
    grad, x, w1, w2, ids, weights, b1, b2, expert_map, z, activation, transposed, interleaved,
    alpha, limit, needs,
):  # fmt: skip
    return tuple(
        t.new_empty(t.shape) if t is not None and needs >> i & 1 else x.new_empty(0)
        for i, t in enumerate((x, w1, w2, weights, b1, b2))
    )


_TRAINED = (0, 1, 2, 4, 5, 6)  # x, w1, w2, weights, b1, b2 among the arguments


def _setup_mlp(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, z = output
    ctx.mark_non_differentiable(z)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:8], z)
    ctx.constants = inputs[8:13]


def _backward_mlp(ctx: Any, grad: Tensor | None, _: None) -> tuple:
    if grad is None:
        return (None,) * 14
    flags = [ctx.needs_input_grad[i] for i in _TRAINED]
    needs = sum(flag << i for i, flag in enumerate(flags))
    grads = moe_mlp_bwd(grad, *ctx.saved_tensors, *ctx.constants, needs)
    result: list[Tensor | None] = [None] * 14
    for index, flag, value in zip(_TRAINED, flags, grads, strict=True):
        result[index] = value if flag else None
    return tuple(result)


moe_mlp_fwd = differentiable("moe_mlp_fwd", _setup_mlp, _backward_mlp)
moe_mlp_bwd = differentiable_no_more("moe_mlp_bwd", "moe_mlp")


# ---- tokens that leave their sequences and come back; linear, so gradients are the ops themselves


@torch.library.register_fake("thrifty::token_topk")
def _(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (*scores.shape[:-1], k)
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


def _setup_topk(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])
    ctx.length = inputs[0].shape[-1]


def _backward_topk(ctx: Any, grad: Tensor | None, _: None) -> tuple:
    if grad is None:
        return None, None
    (index,) = ctx.saved_tensors
    return grad.new_zeros((*grad.shape[:-1], ctx.length)).scatter(-1, index, grad), None


token_topk = differentiable("token_topk", _setup_topk, _backward_topk)


@torch.library.register_fake("thrifty::gather_rows")
def _(x: Tensor, index: Tensor, weights: Tensor | None) -> Tensor:
    return x.new_empty((*index.shape, x.shape[-1]))


@torch.library.register_fake("thrifty::scatter_add_rows")
def _(x: Tensor, index: Tensor, src: Tensor, weights: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def _setup_rows(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _row_products(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """<a, b> of each row: the gradient of its weight."""
    wide = sums(a).dtype
    return (a.to(wide).contiguous() * b.to(wide)).sum(-1).to(weights.dtype)


def _backward_gather(ctx: Any, grad: Tensor) -> tuple:
    x, index, weights = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx = scatter_add_rows(torch.zeros_like(x), index, grad, weights) if needs[0] else None
    dweights = None
    if needs[2]:
        dweights = _row_products(grad, gather_rows(x, index, None), weights)
    return dx, None, dweights


def _backward_scatter(ctx: Any, grad: Tensor) -> tuple:
    _, index, src, weights = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dsrc = gather_rows(grad, index, weights) if needs[2] else None
    dweights = None
    if needs[3]:
        dweights = _row_products(src, gather_rows(grad, index, None), weights)
    return grad if needs[0] else None, None, dsrc, dweights


gather_rows = differentiable("gather_rows", _setup_rows, _backward_gather)
scatter_add_rows = differentiable("scatter_add_rows", _setup_rows, _backward_scatter)
