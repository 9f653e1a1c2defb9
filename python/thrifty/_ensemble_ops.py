"""What torch has to know about the ensemble ops: shapes, gradients, vmap. Their schemas and kernels
come with the native library (csrc/ensemble/ops.cpp).

Each layer is a forward op that returns (out, z) and a backward op that takes z, the product before
s and bias. z is saved only when the backward reads it; when it was not saved (save_z was decided
without knowing of a gradient, as under torch.func) it is computed again.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from thrifty import _library  # noqa: F401  defines the ops
from thrifty._members import members
from thrifty._transforms import differentiable, differentiable_no_more, sliced

ops = torch.ops.thrifty


def _needs(ctx: Any, arguments: int) -> tuple[int, tuple[bool, ...]]:
    """The bit mask `needs` of a backward op over its first arguments, and the same as flags."""
    flags = tuple(ctx.needs_input_grad[:arguments])
    return sum(flag << i for i, flag in enumerate(flags)), flags


def _returned(grads: Sequence[Tensor], flags: Sequence[bool], inputs: int) -> tuple:
    wanted = [grad if flag else None for grad, flag in zip(grads, flags, strict=True)]
    return (*wanted, *[None] * (inputs - len(wanted)))


# ---- batch_ensemble_linear: 6 tensors, then seed, activation, dropout, k, group, save_z


@torch.library.register_fake("thrifty::batch_ensemble_linear_fwd")
def _(x, weight, r, s, bias, r_next, seed, activation, dropout, k, group, save_z):  # type: ignore[no-untyped-def]
    torch._check(weight.dim() == 2, lambda: "batch_ensemble_linear: weight: expected (out, in)")
    torch._check(
        x.shape[-1] == weight.shape[1],
        lambda: f"batch_ensemble_linear: weight: expected in = {x.shape[-1]}, got {weight.shape}",
    )
    k = members("batch_ensemble_linear", k, (r, s, r_next, bias), x)
    rows = (x.shape[0],) if group else (x.shape[0], k)
    shape = (*rows, weight.shape[0])
    return x.new_empty(shape), x.new_empty(shape if save_z else (0,))


@torch.library.register_fake("thrifty::batch_ensemble_linear_bwd")
def _(  # type: ignore[no-untyped-def]
    grad, x, weight, r, s, bias, r_next, seed, z, activation, dropout, k, group, needs
):
    arguments = (x, weight, r, s, bias, r_next)
    return tuple(
        a.new_empty(a.shape) if needs >> i & 1 else x.new_empty(0) for i, a in enumerate(arguments)
    )


def _setup(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, z = output
    ctx.mark_non_differentiable(z)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:7], z)
    ctx.constants = inputs[7:11]


def _backward(ctx: Any, grad: Tensor | None, _: None) -> tuple:
    if grad is None:
        return (None,) * 12
    *tensors, z = ctx.saved_tensors
    needs, flags = _needs(ctx, 6)
    reads_z = ctx.constants[0] != "none" or flags[3] or flags[5]  # activation, s, r_next
    if reads_z and z.dim() == 1:
        _, z = batch_ensemble_linear_fwd(*tensors, *ctx.constants, True)
    grads = batch_ensemble_linear_bwd(grad, *tensors, z, *ctx.constants, needs)
    return _returned(grads, flags, 12)


def _vmap(info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
    """A batch of x alone is more rows, where neither a mask nor a group counts them."""
    x, dropout, group, save_z = args[0], args[8], args[10], args[11]
    batched = [i for i, dim in enumerate(in_dims) if dim is not None]
    if batched != [0] or dropout > 0 or group:
        return sliced(batch_ensemble_linear_fwd)(info, in_dims, *args)
    x = x.movedim(in_dims[0], 0)
    out, z = batch_ensemble_linear_fwd(x.flatten(0, 1), *args[1:])
    z = z.unflatten(0, x.shape[:2]) if save_z else z
    return (out.unflatten(0, x.shape[:2]), z), (0, 0 if save_z else None)


batch_ensemble_linear_fwd = differentiable("batch_ensemble_linear_fwd", _setup, _backward, _vmap)
batch_ensemble_linear_bwd = differentiable_no_more(
    "batch_ensemble_linear_bwd", "batch_ensemble_linear"
)


# ---- ensemble_linear: 3 tensors, then seed, activation, dropout, save_z


@torch.library.register_fake("thrifty::ensemble_linear_fwd")
def _(x, weight, bias, seed, activation, dropout, save_z):  # type: ignore[no-untyped-def]
    torch._check(weight.dim() == 3, lambda: "ensemble_linear: weight: expected (k, in, out)")
    torch._check(
        x.shape[-1] == weight.shape[1],
        lambda: f"ensemble_linear: weight: expected in = {x.shape[-1]}, got {weight.shape}",
    )
    shape = (x.shape[0], weight.shape[0], weight.shape[2])
    return x.new_empty(shape), x.new_empty(shape if save_z else (0,))


@torch.library.register_fake("thrifty::ensemble_linear_bwd")
def _(grad, x, weight, bias, seed, z, activation, dropout, needs):  # type: ignore[no-untyped-def]
    return tuple(
        a.new_empty(a.shape) if needs >> i & 1 else x.new_empty(0)
        for i, a in enumerate((x, weight, bias))
    )


def _setup_packed(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    _, z = output
    ctx.mark_non_differentiable(z)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:4], z)
    ctx.constants = inputs[4:6]


def _backward_packed(ctx: Any, grad: Tensor | None, _: None) -> tuple:
    if grad is None:
        return (None,) * 7
    *tensors, z = ctx.saved_tensors
    needs, flags = _needs(ctx, 3)
    if ctx.constants[0] != "none" and z.dim() == 1:
        _, z = ensemble_linear_fwd(*tensors, *ctx.constants, True)
    grads = ensemble_linear_bwd(grad, *tensors, z, *ctx.constants, needs)
    return _returned(grads, flags, 7)


ensemble_linear_fwd = differentiable("ensemble_linear_fwd", _setup_packed, _backward_packed)
ensemble_linear_bwd = differentiable_no_more("ensemble_linear_bwd", "ensemble_linear")


# ---- inference only


@torch.library.register_fake("thrifty::batch_ensemble_mlp")
def _(x, weight, r, s, bias, head_weight, head_bias, activation, reduce, packed):  # type: ignore[no-untyped-def]
    given = [v for v in (*r, *s, *bias) if v.dim() == 2]
    k = members("batch_ensemble_mlp", 0 if head_weight is None else head_weight.shape[0], given, x)
    width = weight[-1].shape[0] if head_weight is None else head_weight.shape[2]
    return x.new_empty((x.shape[0], width) if reduce != "none" else (x.shape[0], k, width))


@torch.library.register_fake("thrifty::pack_weight")
def _(weight: Tensor) -> Tensor:
    torch._check(weight.dim() == 2, lambda: "pack_weight: weight: expected (out, in)")
    size = 8 if weight.dtype == torch.float64 else 4
    n_out, n_in = ((n + 31) // 32 * 32 for n in weight.shape)
    return weight.new_empty(n_out * n_in * size, dtype=torch.uint8)


torch.library.register_vmap("thrifty::batch_ensemble_mlp", sliced(ops.batch_ensemble_mlp))
