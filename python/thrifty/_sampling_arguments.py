"""Arguments that the sampling ops share: numbers as tensors, refusals, status."""

import enum
import math

import torch
from torch import Tensor


class Status(enum.IntEnum):
    """What `status` of a row says; the ops hold it as int32."""

    OK = 0
    NOTHING_ALLOWED = 1  # no token is allowed, passes the filters and has a logit above -inf
    BUDGET = 2  # the budget of constraint checks was spent before a token was accepted
    INVALID = 4  # a NaN or +inf among the row's logits, or logit / T beyond float32


def per_row(
    op: str,
    name: str,
    value: float | Tensor | None,
    like: Tensor,
    *,
    low: float = 0.0,
    high: float = math.inf,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """A number as a tensor of one element on the device of `like`; a tensor of its own dtype."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.to(dtype)
    if not low <= value <= high:
        raise ValueError(f"{op}: {name}: expected a number in [{low:g}, {high:g}], got {value}")
    return torch.full((1,), value, dtype=dtype, device=like.device)


def refuse_gradient(op: str, logits: Tensor) -> None:
    if torch.is_grad_enabled() and logits.requires_grad:
        raise ValueError(
            f"{op}: logits: expected no gradient to be recorded, since this op has none "
            "(use torch.no_grad() or logits.detach()), got requires_grad=True"
        )


def raise_unless_ok(op: str, status: Tensor) -> None:
    """For `strict`: reads the status, which waits for the device."""
    bad = status.nonzero().flatten().tolist()
    if bad:
        reasons = {row: Status(int(status[row])).name for row in bad[:8]}
        raise ValueError(f"{op}: status: expected OK in every row, got {reasons}")
