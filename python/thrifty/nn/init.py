"""Initial distributions of ensemble parameters (TabM, arXiv 2410.24210, section 3).

Scalings (r, s) start as ones, N(0, 1) or random signs; TabM draws the very first r once per
feature ("chunk") and member, so that all columns of one embedded feature share one scalar.
The order of random draws equals that of the `tabm` package: one seed gives both the same start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

SCALING_DISTRIBUTIONS = ("ones", "normal", "random-signs")


def rsqrt_uniform_(tensor: Tensor, fan_in: int) -> Tensor:
    """Fill in place from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5
    return nn.init.uniform_(tensor, -bound, bound)


def _random_signs_(tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return tensor.bernoulli_(0.5).mul_(2).sub_(1)


_FILL: dict[str, Callable[[Tensor], Tensor]] = {
    "ones": nn.init.ones_,
    "normal": nn.init.normal_,
    "random-signs": _random_signs_,
}


def init_scaling_(x: Tensor, distribution: str, chunks: Sequence[int] | None = None) -> Tensor:
    """Fill the scaling `x` in place.

    Args:
        x: tensor of shape (..., d), usually (k, d).
        distribution: "ones", "normal" (N(0, 1)) or "random-signs" (-1 or +1, evenly).
        chunks: sizes that sum to d. All entries of one chunk in one row get one draw.

    Example::

        >>> r = init_scaling_(torch.empty(4, 5), "normal", chunks=[2, 3])
        >>> bool((r[:, 0] == r[:, 1]).all() and (r[:, 2] == r[:, 4]).all())
        True
    """
    if distribution not in _FILL:
        raise ValueError(
            f"init_scaling_: distribution: expected one of {SCALING_DISTRIBUTIONS}, "
            f"got {distribution!r}"
        )
    fill = _FILL[distribution]
    if chunks is None:
        return fill(x)
    if distribution == "ones":
        raise ValueError("init_scaling_: chunks: expected None with distribution 'ones'")
    if x.ndim < 1 or sum(chunks) != x.shape[-1]:
        raise ValueError(
            f"init_scaling_: chunks: expected sizes that sum to the last dimension of x, "
            f"got {sum(chunks)} for shape {tuple(x.shape)}"
        )
    with torch.no_grad():
        draws = [fill(torch.empty(*x.shape[:-1], 1)).expand(*x.shape[:-1], n) for n in chunks]
        return x.copy_(torch.cat(draws, dim=-1))
