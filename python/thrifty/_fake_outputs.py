"""Outputs of fake kernels: shapes and dtypes without values, for tracing."""

from typing import Any

import torch
from torch import Tensor


def sums(like: Tensor, *shape: Any) -> Tensor:
    """What kernels add up in: float32, and float64 for float64."""
    wide = torch.float64 if like.dtype == torch.float64 else torch.float32
    return like.new_empty(shape, dtype=wide)


def integers(like: Tensor, *shape: Any) -> Tensor:
    return like.new_empty(shape, dtype=torch.int32)
