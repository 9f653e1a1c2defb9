"""What torch has to know about the attention ops: shapes, gradients, vmap.

Their schemas and kernels come with the native library (csrc/attention/ops.cpp).
"""

from typing import Any

import torch
from torch import Tensor

from thrifty import _library  # noqa: F401  defines the ops
from thrifty._fake_outputs import integers, sums
from thrifty._transforms import differentiable, differentiable_no_more, sliced

ops = torch.ops.thrifty


# ---- buckets and plans: integers


@torch.library.register_fake("thrifty::lsh_bucket")
def _(x: Tensor, planes: Tensor, mean: Tensor | None) -> Tensor:
    return integers(x, *x.shape[:-1])


@torch.library.register_fake("thrifty::centroid_bucket")
def _(x: Tensor, centroids: Tensor, mean: Tensor | None) -> Tensor:
    return integers(x, *x.shape[:-1])


@torch.library.register_fake("thrifty::lsh_planes")
def _(seed: Tensor, dim: int, planes: int) -> Tensor:
    return seed.new_empty((dim, planes), dtype=torch.float32)


def _plan_sizes(nq: int, nk: int, causal: bool, leaf: int) -> tuple[int, int, int]:
    """Nodes of one sequence, their keys and their queries: csrc/attention/layout.cpp."""
    if not causal:
        return (1, nk, nq) if nq > 0 and nk > 0 else (0, 0, 0)
    nodes = keys = queries = 0
    side = leaf
    while side < nk:
        for middle in range(side, nk, 2 * side):
            first, last = (max(at - (nk - nq), 0) for at in (middle, min(middle + side, nk)))
            if first < last:
                nodes, keys, queries = nodes + 1, keys + side, queries + last - first
        side *= 2
    return nodes, keys, queries


@torch.library.register_fake("thrifty::hyper_plan")
def _(  # type: ignore[no-untyped-def]
    q, k, planes, cu_q, cu_k, mode, causal, center, num_buckets, window, residual, keep, leaf, seed,
):  # fmt: skip
    torch._check(q.dim() == 4 and k.dim() == 4, lambda: "hyper_attention: q: expected (B, H, N, D)")
    batch, q_heads, k_heads = q.shape[0], q.shape[1], k.shape[1]
    if (
        cu_q is None
        and cu_k is None
        and isinstance(q.shape[2], int)
        and isinstance(k.shape[2], int)
    ):
        nodes, keys, queries = _plan_sizes(q.shape[2], k.shape[2], causal, leaf)
    else:  # what the lengths say when it runs
        nodes, keys, queries = (torch.library.get_ctx().new_dynamic_size() for _ in range(3))
    means = mode == "means"
    return (
        integers(q, batch, k_heads, keys),
        integers(q, batch, k_heads, nodes if means else 0, num_buckets + 1),
        integers(q, batch, q_heads, queries),
        integers(q, batch, k_heads, 0 if means else nodes, residual),
    )


for _op in (ops.lsh_bucket, ops.centroid_bucket, ops.lsh_planes, ops.hyper_plan):
    torch.library.register_vmap(f"thrifty::{_op.__name__}", sliced(_op))


# ---- hyper_core: q, k, v, 4 of order, list_k, list_v, list_logw, list_range, list_var, scale


@torch.library.register_fake("thrifty::hyper_core_fwd")
def _(  # type: ignore[no-untyped-def]
    q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw, list_range, list_var,
    scale,
):  # fmt: skip
    torch._check(q.dim() == 4 and v.dim() == 4, lambda: "hyper_core: q: expected (B, H, N, D)")
    return q.new_empty((*q.shape[:3], v.shape[3])), sums(q, *q.shape[:3])


# ---- hyper_attention: q, k, v, 4 of the plan, cu_q, cu_k, 7 of the recipe, scale


@torch.library.register_fake("thrifty::hyper_attention_fwd")
def _(  # type: ignore[no-untyped-def]
    q, k, v, order, offsets, q_window, samples, cu_q, cu_k, mode, causal, num_buckets, window,
    residual, keep, leaf, scale,
):  # fmt: skip
    torch._check(q.dim() == 4 and v.dim() == 4, lambda: "hyper_attention: q: expected (B, H, N, D)")
    return q.new_empty((*q.shape[:3], v.shape[3])), sums(q, *q.shape[:3])


def _no_list(like: Tensor) -> Tensor:
    return sums(like, 0)


@torch.library.register_fake("thrifty::hyper_core_bwd")
def _(  # type: ignore[no-untyped-def]
    dout, dlse, q, k, v, q_order, q_offsets, k_order, windows, list_k, list_v, list_logw,
    list_range, list_var, out, lse, scale,
):  # fmt: skip
    grads = [x.new_empty(x.shape) for x in (q, k, v)]
    if list_k is None:
        return (*grads, *(_no_list(q) for _ in range(4)))
    shapes = (list_k.shape, list_v.shape, list_k.shape[:3], list_k.shape[:3])
    return (*grads, *(sums(q, *shape) for shape in shapes))


def _setup_core(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:12], *output)
    ctx.scale = inputs[12]


def _backward_core(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
    if dout is None and dlse is None:
        return (None,) * 13
    *inputs, out, lse = ctx.saved_tensors
    dout = torch.zeros_like(out) if dout is None else dout
    grads = hyper_core_bwd(dout, dlse, *inputs, out, lse, ctx.scale)
    result: list[Tensor | None] = [None] * 13
    for index, grad in zip((0, 1, 2, 7, 8, 9, 11), grads, strict=True):
        if inputs[index] is not None and ctx.needs_input_grad[index]:
            result[index] = grad.to(inputs[index].dtype)
    return tuple(result)


hyper_core_fwd = differentiable("hyper_core_fwd", _setup_core, _backward_core)
hyper_core_bwd = differentiable_no_more("hyper_core_bwd", "hyper_core")


@torch.library.register_fake("thrifty::hyper_attention_bwd")
def _(  # type: ignore[no-untyped-def]
    dout, dlse, q, k, v, out, lse, order, offsets, q_window, samples, cu_q, cu_k, mode, causal,
    num_buckets, window, residual, keep, leaf, scale,
):  # fmt: skip
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _setup_attention(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:9])
    ctx.constants = inputs[9:]


def _backward_attention(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple:
    if dout is None and dlse is None:
        return (None,) * 17
    saved = ctx.saved_tensors
    dout = torch.zeros_like(saved[3]) if dout is None else dout
    grads = hyper_attention_bwd(dout, dlse, *saved, *ctx.constants)
    wanted = (g if need else None for g, need in zip(grads, ctx.needs_input_grad, strict=False))
    return *wanted, *[None] * 14


hyper_attention_fwd = differentiable("hyper_attention_fwd", _setup_attention, _backward_attention)
hyper_attention_bwd = differentiable_no_more("hyper_attention_bwd", "hyper_attention")
