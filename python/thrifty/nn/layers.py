"""Ensemble layers: k linear maps that share one weight, or k separate ones, in one call.

LinearBatchEnsemble: y_j = s_j * (W (r_j * x_j)) + b_j  (BatchEnsemble, arXiv 2002.06715, eq. 5)
LinearEnsemble:      y_j = W_j^T x_j + b_j              (weight stored (k, in, out))
Activations are (B, k, d): batch first, member in the middle. Parameter names, shapes and initial
distributions are those of the `tabm` package, so state dicts load both ways.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..ensemble import batch_ensemble_linear, ensemble_linear
from .init import init_scaling_, rsqrt_uniform_


def check_positive(owner: str, **sizes: int) -> None:
    """Raise ValueError unless every named size is a positive integer."""
    for name, value in sizes.items():
        if value <= 0:
            raise ValueError(f"{owner}: {name}: expected a positive integer, got {value}")


def autocast_dtype(x: Tensor, weight: Tensor) -> torch.dtype | None:
    """The dtype that autocast wants matrix products in, or None when it is off.

    Like torch's own autocast, float64 is left alone.
    """
    device = x.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    if x.dtype == torch.float64 or weight.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)


def collapse_members(x: Tensor) -> Tensor:
    """(B, k, d) that repeats one (B, d) with stride 0 -> that (B, d); anything else unchanged."""
    if x.ndim == 3 and x.shape[1] > 1 and x.stride(1) == 0:
        return x.select(1, 0)
    return x


def widen(out: Tensor, s: Tensor | None, bias: Tensor | None) -> Tensor:
    """Finish a layer under autocast as torch does: float32 scalings and biases widen the result.

    Adding the bias here costs no pass more than the cast and spares a rounding to bfloat16.
    """
    if bias is not None:
        return out + bias
    return out if s is None else out.to(torch.promote_types(out.dtype, s.dtype))


class ElementwiseAffine(nn.Module):
    """x * weight [+ bias], elementwise over the trailing `shape`.

    Args:
        shape: trailing shape of the input, (k, d) inside TabM.
        bias: whether to add a bias (it starts at zero).
        scaling_init: "ones", "normal" or "random-signs".
        scaling_init_chunks: see `thrifty.nn.init_scaling_`.
        dtype, device: of the parameters.

    Shape: (*, *shape) -> (*, *shape).

    Example::

        >>> affine = ElementwiseAffine((3, 4), bias=True, scaling_init="normal")
        >>> affine(torch.randn(2, 3, 4)).shape
        torch.Size([2, 3, 4])
    """

    bias: Tensor | None

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        bias: bool,
        scaling_init: str,
        scaling_init_chunks: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty_like(self.weight)) if bias else None
        )
        self._weight_init = scaling_init
        self._weight_init_chunks = scaling_init_chunks
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the scaling anew and set the bias to zero."""
        init_scaling_(self.weight, self._weight_init, self._weight_init_chunks)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift `x` of shape (*, *shape)."""
        shape = self.weight.shape
        if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
            raise ValueError(
                f"ElementwiseAffine: x: expected shape (*, {', '.join(map(str, shape))}), "
                f"got {tuple(x.shape)}"
            )
        return x * self.weight if self.bias is None else torch.addcmul(self.bias, self.weight, x)


def ensemble_view(x: Tensor, k: int, training: bool) -> Tensor:
    """(B, d) -> (B, k, d) without a copy. (B, k, d) passes through, in eval mode with a warning.

    Raises:
        ValueError: another shape.

    Example::

        >>> ensemble_view(torch.randn(3, 4), k=2, training=True).stride(1)
        0
    """
    if x.ndim == 2:
        return x.unsqueeze(-2).expand(-1, k, -1)
    if x.ndim != 3 or x.shape[-2] != k:
        raise ValueError(
            f"ensemble_view: x: expected shape (B, d) or (B, {k}, d), got {tuple(x.shape)}"
        )
    if not training:
        warnings.warn(
            "ensemble_view: a separate input per member in eval mode is unusual: "
            f"got shape {tuple(x.shape)}, usually (B, d)",
            stacklevel=2,
        )
    return x


class EnsembleView(nn.Module):
    """Module form of `ensemble_view`: gives every member the same view of the batch.

    Layers and backbones of `thrifty.nn` recognise the view and never materialise it.

    Example::

        >>> EnsembleView(k=2)(torch.randn(3, 4)).shape
        torch.Size([3, 2, 4])
    """

    def __init__(self, *, k: int) -> None:
        super().__init__()
        check_positive("EnsembleView", k=k)
        self._k = k

    @property
    def k(self) -> int:
        """The number of members."""
        return self._k

    def forward(self, x: Tensor) -> Tensor:
        """Expand `x` to one view per member."""
        return ensemble_view(x, self.k, self.training)


class LinearEnsemble(nn.Module):
    """k separate linear layers applied to k inputs: y_j = x_j W_j + b_j.

    Args:
        in_features, out_features: sizes of each member's layer.
        bias: whether the layers have biases.
        k: number of members.
        dtype, device: of the parameters.

    Parameters: weight (k, in, out) and bias (k, out), both from U(-1/sqrt(in), 1/sqrt(in)).
    Shape: (B, k, in) -> (B, k, out).

    Example::

        >>> LinearEnsemble(2, 3, k=4)(torch.randn(5, 4, 2)).shape
        torch.Size([5, 4, 3])
    """

    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        k: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_positive("LinearEnsemble", in_features=in_features, out_features=out_features, k=k)
        super().__init__()
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        self.weight = nn.Parameter(torch.empty(k, in_features, out_features, **factory))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(k, out_features, **factory)) if bias else None
        )
        self.reset_parameters()

    @classmethod
    def from_linear(cls, module: nn.Linear, **kwargs: Any) -> LinearEnsemble:
        """A freshly initialised ensemble of the sizes, dtype and device of `module`."""
        like: dict[str, Any] = {"dtype": module.weight.dtype, "device": module.weight.device}
        bias = module.bias is not None
        return cls(module.in_features, module.out_features, bias, **(like | kwargs))

    @property
    def in_features(self) -> int:
        """Input size of each member."""
        return self.weight.shape[-2]

    @property
    def out_features(self) -> int:
        """Output size of each member."""
        return self.weight.shape[-1]

    @property
    def k(self) -> int:
        """The number of members."""
        return self.weight.shape[0]

    def reset_parameters(self) -> None:
        """Draw weights and biases anew."""
        rsqrt_uniform_(self.weight, self.in_features)
        if self.bias is not None:
            rsqrt_uniform_(self.bias, self.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Apply member j's layer to x[:, j]."""
        if x.ndim != 3 or x.shape[1] != self.k or x.shape[2] != self.in_features:
            raise ValueError(
                f"LinearEnsemble: x: expected shape (B, {self.k}, {self.in_features}), "
                f"got {tuple(x.shape)}"
            )
        dtype = autocast_dtype(x, self.weight)
        if dtype is None:
            return ensemble_linear(x, self.weight, self.bias)
        return widen(ensemble_linear(x.to(dtype), self.weight.to(dtype)), None, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, k={self.k}"


class LinearBatchEnsemble(nn.Module):
    """k linear layers that share one weight: y_j = s_j * (W (r_j * x_j)) + b_j.

    Args:
        in_features, out_features: sizes of the layer.
        bias: whether the members have biases.
        k: number of members.
        scaling_init: "ones", "normal" or "random-signs" for r and s, or a pair of them.
        first_scaling_init_chunks: chunks of r, see `thrifty.nn.init_scaling_`.
        dtype, device: of the parameters.

    Parameters: weight (out, in), r (k, in), s (k, out), bias (k, out). All k rows of the bias
    start equal.
    Shape: (B, k, in) -> (B, k, out); also (B, in) -> (B, k, out), one input shared by all members.

    Example::

        >>> layer = LinearBatchEnsemble(4, 5, k=3, scaling_init="random-signs")
        >>> layer(torch.randn(2, 3, 4)).shape
        torch.Size([2, 3, 5])
    """

    r: Tensor | None
    s: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        k: int,
        scaling_init: str | tuple[str, str],
        first_scaling_init_chunks: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_positive(
            "LinearBatchEnsemble", in_features=in_features, out_features=out_features, k=k
        )
        super().__init__()
        factory: dict[str, Any] = {"dtype": dtype, "device": device}
        self.weight = nn.Parameter(torch.empty(out_features, in_features, **factory))
        self.r = nn.Parameter(torch.empty(k, in_features, **factory))
        self.s = nn.Parameter(torch.empty(k, out_features, **factory))
        self.register_parameter(
            "bias", nn.Parameter(torch.empty(k, out_features, **factory)) if bias else None
        )
        self.in_features = in_features
        self.out_features = out_features
        self.k = k
        pair = scaling_init if isinstance(scaling_init, tuple) else (scaling_init, scaling_init)
        self._first_scaling_init, self._second_scaling_init = pair
        self._first_scaling_init_chunks = first_scaling_init_chunks
        self.reset_parameters()

    @classmethod
    def from_linear(cls, module: nn.Linear, **kwargs: Any) -> LinearBatchEnsemble:
        """A freshly initialised ensemble of the sizes, dtype and device of `module`."""
        like: dict[str, Any] = {"dtype": module.weight.dtype, "device": module.weight.device}
        bias = module.bias is not None
        return cls(module.in_features, module.out_features, bias, **(like | kwargs))

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        rsqrt_uniform_(self.weight, self.in_features)
        if self.r is not None:
            init_scaling_(self.r, self._first_scaling_init, self._first_scaling_init_chunks)
        if self.s is not None:
            init_scaling_(self.s, self._second_scaling_init)
        if self.bias is not None:
            start = rsqrt_uniform_(self.weight.new_empty(self.out_features), self.in_features)
            with torch.no_grad():
                self.bias.copy_(start)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to (B, k, in), or to (B, in) shared by all members."""
        x = collapse_members(x)
        dtype = autocast_dtype(x, self.weight)
        if dtype is None:
            return batch_ensemble_linear(x, self.weight, self.r, self.s, self.bias, k=self.k)
        out = batch_ensemble_linear(x.to(dtype), self.weight.to(dtype), self.r, self.s, k=self.k)
        return widen(out, self.s, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, k={self.k}"
