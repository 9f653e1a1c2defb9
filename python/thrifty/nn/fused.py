"""Runs a stack of blocks Sequential(linear, activation, dropout) with one op a block.

Block l's epilogue applies its activation and dropout and the r of block l + 1, so that block l + 1
reads an operand that is ready; the first block reads (B, d), never expanded to (B, k, d). Without
gradients, on the CPU, all blocks, the head and the mean over members are one op. What the ops do
not know (another activation, a layer with hooks, a foreign module) runs as the module it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..ensemble import batch_ensemble_linear, batch_ensemble_mlp, ensemble_linear
from .cache import PackedWeights
from .layers import LinearBatchEnsemble, LinearEnsemble, autocast_dtype, collapse_members, widen


class Block(NamedTuple):
    """One block as the ops see it. `activation` None: the op stops before the activation."""

    weight: Tensor
    r: Tensor | None
    s: Tensor | None
    bias: Tensor | None
    separate: bool  # weight is (k, in, out), one matrix per member
    activation: str | None
    dropout: float  # 0 in eval mode
    modules: tuple[nn.Module, nn.Module]  # the activation and dropout, run when activation is None


_ACTIVATIONS: dict[type, str] = {nn.ReLU: "relu", nn.SiLU: "silu", nn.Identity: "none"}
_FUSED_FORWARDS = (LinearBatchEnsemble.forward, LinearEnsemble.forward, nn.Linear.forward)


def activation_name(module: nn.Module) -> str | None:
    """The op's name of an activation module, or None when the op has no such activation."""
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return _ACTIVATIONS.get(type(module))


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _read_block(block: nn.Module) -> Block | None:
    parts = tuple(block._modules.values())
    if len(parts) != 3 or type(block) is not nn.Sequential or has_hooks(block):
        return None
    linear, activation, dropout = parts
    if linear is None or activation is None or type(dropout) is not nn.Dropout:
        return None
    if has_hooks(linear) or has_hooks(activation) or has_hooks(dropout):
        return None
    parameters = linear._parameters  # thrice as fast as attributes, of which there are many here
    weight = parameters.get("weight")  # a parametrised weight is no parameter
    if type(linear).forward not in _FUSED_FORWARDS or weight is None:
        return None
    p = dropout.p if dropout.training else 0.0
    return Block(
        weight,
        parameters.get("r"),
        parameters.get("s"),
        parameters["bias"],
        weight.ndim == 3,
        activation_name(activation) if p < 1.0 else None,
        p,
        (activation, dropout),
    )


def read_blocks(blocks: Iterable[nn.Module], scale: Tensor | None) -> list[Block] | None:
    """The blocks for the ops, `scale` being one more r of the first; None if one is foreign."""
    result: list[Block] = []
    for module in blocks:
        block = _read_block(module)
        if block is None or (result and block.separate != result[0].separate):
            return None
        result.append(block)
    if scale is not None and result:
        if result[0].r is not None or result[0].separate:
            return None
        result[0] = result[0]._replace(r=scale)
    return result


def run_modules(x: Tensor, blocks: Iterable[nn.Module], k: int, scale: Tensor | None) -> Tensor:
    """Run the blocks one module at a time: what `run_blocks` is a faster form of."""
    if x.ndim == 2:
        x = x.unsqueeze(1).expand(-1, k, -1)
    if scale is not None:
        x = x * scale
    for block in blocks:
        x = block(x)
    return x


def run_blocks(x: Tensor, blocks: list[Block], k: int) -> Tensor:
    """Run the blocks with one op each. x is (B, d) or (B, k, d), the result (B, k, d_block)."""
    cast = autocast_dtype(x, blocks[0].weight)
    dtype = cast or blocks[0].weight.dtype
    x = x if cast is None else x.to(cast)
    # One draw per forward: all masks follow from torch.manual_seed and cost one small kernel.
    seeds: Tensor | None = None
    if any(block.dropout > 0 for block in blocks):
        seeds = torch.randint(2**63 - 1, (len(blocks), 2), dtype=torch.int64, device=x.device)
    scaled = False  # whether the previous epilogue has applied this block's r
    for i, block in enumerate(blocks):
        weight, fused = block.weight.to(dtype), block.activation is not None
        p, seed = 0.0, None
        if fused and block.dropout > 0 and seeds is not None:
            p, seed = block.dropout, seeds[i]
        if block.separate:
            x = ensemble_linear(x, weight, block.bias, block.activation, dropout=p, seed=seed)
        else:
            r_next = blocks[i + 1].r if fused and i + 1 < len(blocks) else None
            x = batch_ensemble_linear(
                x,
                weight,
                None if scaled else block.r,
                block.s,
                block.bias,
                block.activation,
                r_next=r_next,
                dropout=p,
                seed=seed,
                k=k,
            )
            scaled = r_next is not None
        if not fused:
            for module in block.modules:
                x = module(x)
    return x


def _one_op_activation(x: Tensor, blocks: list[Block]) -> str | None:
    """The activation of all blocks, if the op for whole networks can run them."""
    name = blocks[0].activation
    if torch.is_grad_enabled() or x.device.type != "cpu" or blocks[0].separate:
        return None
    same = all(block.activation == name and block.dropout == 0 for block in blocks)
    return name if same else None


def reduce_members(x: Tensor, reduce: str) -> Tensor:
    """Reduce (B, k, d) over members: "none", "mean", or "softmax_mean" (mean of probabilities)."""
    if reduce == "none":
        return x
    if reduce == "mean":
        return x.mean(1)
    if reduce == "softmax_mean":
        return x.softmax(-1).mean(1)
    raise ValueError(
        f"reduce_members: reduce: expected 'none', 'mean' or 'softmax_mean', got {reduce!r}"
    )


def run_network(
    x: Tensor,
    modules: Iterable[nn.Module],
    k: int,
    cache: PackedWeights,
    *,
    scale: Tensor | None = None,
    head: Any = None,
    reduce: str = "none",
) -> Tensor:
    """Blocks, then the head if there is one, then `reduce` over the members.

    Under autocast the blocks' activations have autocast's dtype; the head's output is float32.
    """
    x = collapse_members(x)
    if torch.is_grad_enabled():
        cache.clear()  # a gradient step may follow, and fused optimisers leave no other trace
    blocks = read_blocks(modules, scale)
    plain_head = head is None or (
        type(head).forward is LinearEnsemble.forward and not has_hooks(head)
    )
    activation = _one_op_activation(x, blocks) if blocks and plain_head else None
    if not blocks or activation is None:
        x = run_blocks(x, blocks, k) if blocks else run_modules(x, modules, k, scale)
        return reduce_members(x if head is None else head(x), reduce)
    dtype = autocast_dtype(x, blocks[0].weight) or blocks[0].weight.dtype
    weights, packed = cache.get([block.weight for block in blocks], dtype)
    out = batch_ensemble_mlp(
        x.to(dtype) if dtype != blocks[0].weight.dtype else x,
        weights,
        [block.r for block in blocks],
        [block.s for block in blocks],
        [block.bias for block in blocks],
        activation=activation,
        head_weight=None if head is None else head.weight.to(dtype),
        head_bias=None if head is None else head.bias,
        reduce=reduce if head is not None else "none",
        packed=packed,
    )
    if head is None:
        return reduce_members(out, reduce)
    return widen(out, head.bias, None)
