"""What the ensemble ops compute, in plain PyTorch.

One weight serves k members; each has vectors of its own before and after it (BatchEnsemble,
arXiv 2002.06715, section 3.1; TabM, arXiv 2410.24210, section 3.3):

    out_j = dropout(act(((x_j * r_j) @ W^T) * s_j + bias_j)) * r_next_j
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from thrifty._members import members
from thrifty.reference.philox import dropout_mask

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda y: y,
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


def activate(y: Tensor, activation: str | None, dropout: float, seed: Tensor | None) -> Tensor:
    """dropout(act(y)); the mask's row is the element's row of y seen as a matrix."""
    h = ACTIVATIONS[activation or "none"](y)
    if dropout == 0:
        return h
    assert seed is not None
    columns = y.shape[-1]
    mask = dropout_mask(seed, dropout, y.numel() // max(columns, 1), columns)
    return h * mask.view_as(h).to(h.dtype)


def batch_ensemble_linear(
    x: Tensor,
    weight: Tensor,
    r: Tensor | None = None,
    s: Tensor | None = None,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    r_next: Tensor | None = None,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    k: int | None = None,
    group: int | None = None,
) -> Tensor:
    """See `thrifty.batch_ensemble_linear`."""
    k = members("batch_ensemble_linear", k, (r, s, bias, r_next), x)
    if group is None:
        if x.dim() == 2:
            x = x.unsqueeze(1).expand(-1, k, -1)
    else:  # x is (rows, in): give each row the vectors of its member
        member = torch.arange(x.shape[0], device=x.device) // group % k
        r, s, r_next = (v if v is None else v[member] for v in (r, s, r_next))
        bias = bias[member] if bias is not None and bias.dim() == 2 else bias
    u = x if r is None else x * r
    z = u @ weight.T
    y = z if s is None else z * s
    y = y if bias is None else y + bias
    h = activate(y, activation, dropout, seed)
    return h if r_next is None else h * r_next


def ensemble_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """See `thrifty.ensemble_linear`."""
    if x.dim() == 2:
        x = x.unsqueeze(1).expand(-1, weight.shape[0], -1)
    z = torch.einsum("bki,kio->bko", x, weight)
    return activate(z if bias is None else z + bias, activation, dropout, seed)


def batch_ensemble_mlp(
    x: Tensor,
    weight: Sequence[Tensor],
    r: Sequence[Tensor | None] | None = None,
    s: Sequence[Tensor | None] | None = None,
    bias: Sequence[Tensor | None] | None = None,
    *,
    activation: str = "relu",
    head_weight: Tensor | None = None,
    head_bias: Tensor | None = None,
    reduce: str = "none",
    packed: Sequence[Tensor] | None = None,
) -> Tensor:
    """See `thrifty.batch_ensemble_mlp`."""
    r, s, bias = (list(v) if v is not None else [None] * len(weight) for v in (r, s, bias))
    k = None if head_weight is None else head_weight.shape[0]
    k = members("batch_ensemble_mlp", k, (*r, *s, *bias), x)
    for layer in zip(weight, r, s, bias, strict=True):
        x = batch_ensemble_linear(x, *layer, activation, k=k)
    if head_weight is None:
        return x
    out = ensemble_linear(x, head_weight, head_bias)
    if reduce == "softmax_mean":
        out = out.softmax(-1)
    return out if reduce == "none" else out.mean(1)
