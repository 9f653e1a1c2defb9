"""One-hot encoding of categorical columns, built in the float dtype of the network.

Column i of cardinality c_i becomes c_i entries with a single one. An unknown category (a negative
number, or c_i and above) is an error, or the zero row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

UNKNOWN_CATEGORY = ("error", "zero")


def _all(known: Tensor) -> bool:
    try:
        return bool(known.all())
    except RuntimeError:  # inside torch.func.vmap no value can be looked at
        return True


class OneHotEncoding(nn.Module):
    """(*, n) integers -> (*, sum(cardinalities)) zeros and ones.

    Args:
        cardinalities: number of categories of each column.
        unknown_category: "error" raises ValueError for a category out of range, "zero" encodes it
            as zeros. On other devices than the CPU, and in compiled or exported programs, "error"
            is a device-side assertion (RuntimeError), because looking would stall the device;
            inside torch.func.vmap it is not looked for, and encoded as zeros.

    Example::

        >>> OneHotEncoding([2, 3])(torch.tensor([[0, 0], [1, 2]]))
        tensor([[1., 0., 1., 0., 0.],
                [0., 1., 0., 0., 1.]])
        >>> OneHotEncoding([2], unknown_category="zero")(torch.tensor([[7]]))
        tensor([[0., 0.]])
    """

    _offsets: Tensor
    _sizes: Tensor

    def __init__(self, cardinalities: Sequence[int], unknown_category: str = "error") -> None:
        if not cardinalities or any(c <= 0 for c in cardinalities):
            raise ValueError(
                f"OneHotEncoding: cardinalities: expected positive integers, got {cardinalities}"
            )
        if unknown_category not in UNKNOWN_CATEGORY:
            raise ValueError(
                f"OneHotEncoding: unknown_category: expected one of {UNKNOWN_CATEGORY}, "
                f"got {unknown_category!r}"
            )
        super().__init__()
        self._cardinalities = list(cardinalities)
        self.unknown_category = unknown_category
        self._register_layout()

    def _register_layout(self) -> None:
        sizes = torch.tensor(self._cardinalities)
        self.register_buffer("_sizes", sizes, persistent=False)
        self.register_buffer("_offsets", sizes.cumsum(0) - sizes, persistent=False)

    def get_output_shape(self) -> torch.Size:
        """Output shape without batch dimensions."""
        return torch.Size((sum(self._cardinalities),))

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Encode `x` into `dtype` (default: torch's default dtype)."""
        n = len(self._cardinalities)
        if x.ndim < 1 or x.shape[-1] != n:
            raise ValueError(
                f"OneHotEncoding: x: expected shape (*, {n}), one column per cardinality, "
                f"got {tuple(x.shape)}"
            )
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"OneHotEncoding: x: expected an integer dtype, got {x.dtype}")
        x = x.long()
        known = (x >= 0) & (x < self._sizes)
        if self.unknown_category == "error":
            self._require(known, x)
        # An unknown category writes its zero at the first entry of its own column.
        index = torch.where(known, x, 0) + self._offsets
        dtype = dtype or torch.get_default_dtype()
        out = torch.zeros((*x.shape[:-1], sum(self._cardinalities)), dtype=dtype, device=x.device)
        return out.scatter(-1, index, known.to(dtype))

    def _require(self, known: Tensor, x: Tensor) -> None:
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            torch._assert_async(known.all(), "OneHotEncoding: x: category out of range")
        elif not _all(known):
            *_, column = (~known).nonzero()[0].tolist()
            value = x[~known][0].item()
            raise ValueError(
                f"OneHotEncoding: x: expected categories in [0, {self._cardinalities[column]}) in "
                f"column {column}, got {value} (unknown_category='zero' encodes it as zeros)"
            )

    def extra_repr(self) -> str:
        return f"{self._cardinalities}, unknown_category={self.unknown_category!r}"
