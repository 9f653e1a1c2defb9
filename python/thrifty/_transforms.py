"""Gradients, torch.vmap and torch.func for native ops, in one line per op.

torch.library.register_autograd serves eager mode, torch.compile and export, but raises under
torch.func.grad (torch 2.13). So an op that trains is called through what `differentiable` returns:
the op itself, or, inside a torch.func transform, an autograd.Function made of the same parts.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor

Rule = Callable[..., tuple[Any, Any]]  # (info, in_dims, *args) -> results, out_dims


def _slice(value: Any, dim: Any, index: int) -> Any:
    if isinstance(value, (list, tuple)):
        return [_slice(v, d, index) for v, d in zip(value, dim, strict=True)]
    return value if dim is None else value.select(dim, index)


def sliced(op: Callable[..., Any]) -> Rule:
    """A vmap rule for every op: one call per slice, results stacked in front.

    Correct whatever is batched. A family folds the batch into the rows where that is the same.
    """

    def rule(info: Any, in_dims: tuple, *args: Any) -> tuple[Any, Any]:
        calls = [
            op(*(_slice(arg, dim, i) for arg, dim in zip(args, in_dims, strict=True)))
            for i in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        outs = tuple(torch.stack(column) for column in zip(*calls, strict=True))
        return outs, (0,) * len(outs)

    return rule


def differentiable(
    name: str,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    vmap: Rule | None = None,
) -> Callable[..., Any]:
    """Registers gradient and vmap rule (`sliced` by default) of an op; returns what to call."""
    op = getattr(torch.ops.thrifty, name)

    def call(*args: Any) -> Any:
        transformed = torch._C._are_functorch_transforms_active()
        return made.apply(*args) if transformed else op(*args)

    rule = vmap or sliced(call)  # runs inside the outer transforms, hence not `op`
    parts = {"forward": op, "setup_context": setup_context, "backward": backward, "vmap": rule}
    methods = {key: staticmethod(part) for key, part in parts.items()}
    made: Any = type(name, (torch.autograd.Function,), methods)
    torch.library.register_autograd(f"thrifty::{name}", backward, setup_context=setup_context)
    torch.library.register_vmap(f"thrifty::{name}", rule)
    return call


def differentiable_no_more(name: str, public: str) -> Callable[..., Any]:
    """The same for the backward op of `public`: differentiating it again is a clear error.

    On purpose: training takes first derivatives, and kernels for the second would be a third set
    of all of them. Without a rule autograd would take what the op returns for constants.
    """

    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        """Nothing to save."""

    def backward(ctx: Any, *grads: Tensor) -> NoReturn:
        raise NotImplementedError(
            f"{public}: second derivatives are not implemented; the plain PyTorch definition in "
            "thrifty.reference has them"
        )

    return differentiable(name, setup_context, backward)
