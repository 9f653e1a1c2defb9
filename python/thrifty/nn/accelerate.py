"""Turns ensemble modules of other packages into thrifty's, in place.

A known module keeps its identity, parameters, hooks and state-dict names: only its class changes,
so optimisers and references to it stay valid. Known are the `tabm` package (TabM, its backbones and
layers), the older reference code that AutoGluon and pytabkit carry (LinearEfficientEnsemble,
ScaleEnsemble, NLinear, Model), and torch-uncertainty's member-major BatchLinear. A class is known
by its name and attributes, and each layer must agree with its new class on a random probe.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..ensemble import batch_ensemble_linear
from .backbones import (
    MLPBackboneBatchEnsemble,
    MLPBackboneEnsemble,
    MLPBackboneEnsembleBase,
    MLPBackboneMiniEnsemble,
)
from .cache import PackedWeights
from .categorical import OneHotEncoding
from .fused import has_hooks
from .layers import LinearBatchEnsemble, LinearEnsemble, autocast_dtype, widen
from .tabm import TabM


class MemberMajorLinear(nn.Module):
    """torch-uncertainty's BatchLinear: rows of one member are consecutive, (k * B, in).

    The last rows % k rows belong to the members 0, 1, ... again.
    """

    linear: nn.Linear
    r_group: Tensor
    s_group: Tensor
    bias: Tensor | None
    num_estimators: int

    def forward(self, inputs: Tensor) -> Tensor:
        """Apply the layer to (rows, in)."""
        weight, r, s, bias = self.linear.weight, self.r_group, self.s_group, self.bias
        group = max(1, inputs.shape[0] // self.num_estimators)
        rows: dict[str, Any] = {"k": self.num_estimators, "group": group}
        dtype = autocast_dtype(inputs, weight)
        if dtype is None:
            return batch_ensemble_linear(inputs, weight, r, s, bias, **rows)
        # A bias per row needs a gather outside the op, so it stays inside and is rounded once more.
        out = batch_ensemble_linear(inputs.to(dtype), weight.to(dtype), r, s, bias, **rows)
        return widen(out, s, None)


class DeferredScale(nn.Module):
    """The reference code's ScaleEnsemble in front of a backbone that applies the scale itself."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`: the first block of the backbone multiplies by `weight`."""
        return x


class ReferenceBackbone(MLPBackboneEnsembleBase):
    """The reference code's MLP of ensemble layers, with the scale that its Model holds."""

    # In a tuple, so that the module is no child and its parameter keeps one name.
    _adapter: tuple[DeferredScale, ...]

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return x, self._adapter[0].weight if self._adapter else None


def _has(module: Any, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)


def _is_batch_ensemble(m: Any) -> bool:
    return (
        type(m).__name__ in ("LinearBatchEnsemble", "LinearEfficientEnsemble")
        and _has(m, "weight", "r", "s", "bias", "k")
        and m.weight.ndim == 2
    )


def _is_separate(m: Any) -> bool:
    return (
        type(m).__name__ in ("LinearEnsemble", "NLinear")
        and _has(m, "weight", "bias")
        and m.weight.ndim == 3
    )


def _is_member_major(m: Any) -> bool:
    return type(m).__name__ == "BatchLinear" and _has(
        m, "linear", "r_group", "s_group", "bias", "num_estimators"
    )


def _probe_shape(m: Any) -> tuple[int, ...]:
    if _is_member_major(m):
        return 2 * m.num_estimators + 1, m.linear.weight.shape[1]
    if m.weight.ndim == 3:
        return 2, m.weight.shape[0], m.weight.shape[1]
    return 2, m.k, m.weight.shape[1]


@torch.no_grad()
def _adopt(m: Any, kind: type[nn.Module]) -> bool:
    """Make the module a `kind`, if that computes the same on one random input."""
    weight = m.linear.weight if _is_member_major(m) else m.weight
    before = type(m)
    if weight.device.type == "meta":
        m.__class__ = kind
        return True
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_probe_shape(m), generator=generator).to(weight)
    with torch.autocast(weight.device.type, enabled=False):
        expected = before.forward(m, x).double()
        m.__class__ = kind
        got = kind.forward(m, x).double()
    tolerance = 1e-3 if weight.dtype in (torch.float32, torch.float64) else 5e-2
    bound = tolerance * expected.abs().max().clamp_min(1.0)
    if got.shape != expected.shape or not bool((got - expected).abs().max() <= bound):
        m.__class__ = before
        return False
    return True


_LAYERS: tuple[tuple[Callable[[Any], bool], type[nn.Module]], ...] = (
    (_is_batch_ensemble, LinearBatchEnsemble),
    (_is_separate, LinearEnsemble),
    (_is_member_major, MemberMajorLinear),
)


def _convert_layer(m: Any) -> bool:
    for matches, kind in _LAYERS:
        if isinstance(m, kind):
            return True
        if matches(m) and _adopt(m, kind):
            return True
    return False


def _become_backbone(m: Any, kind: type[MLPBackboneEnsembleBase]) -> None:
    m.__class__ = kind
    m._packed = PackedWeights()


_BACKBONES: dict[str, type[MLPBackboneEnsembleBase]] = {
    kind.__name__: kind
    for kind in (MLPBackboneBatchEnsemble, MLPBackboneMiniEnsemble, MLPBackboneEnsemble)
}


def _convert_backbone(m: Any) -> bool:
    kind = _BACKBONES.get(type(m).__name__)
    if kind is None or not _has(m, "blocks", "_k"):
        return False
    if kind is MLPBackboneMiniEnsemble and not _has(m, "affine"):
        return False
    if not isinstance(m, MLPBackboneEnsembleBase):
        _become_backbone(m, kind)
    return True


def _convert_encoding(m: Any) -> None:
    """The one-hot encoders of the package (unknown: error) and of the older code (unknown: 0)."""
    name = type(m).__name__
    if name not in ("_OneHotEncoding", "OneHotEncoding0d") or not _has(m, "_cardinalities"):
        return
    m.__class__ = OneHotEncoding
    m.unknown_category = "error" if name == "_OneHotEncoding" else "zero"
    m._register_layout()


def _convert_tabm(m: Any) -> bool:
    names = ("num_module", "cat_module", "ensemble_view", "backbone", "output")
    if not _has(m, *names, "_n_num_features", "_n_cat_features"):
        return False
    if not isinstance(m.backbone, MLPBackboneEnsembleBase) or type(m).__module__ != "tabm":
        return False
    if m.cat_module is not None:
        _convert_encoding(m.cat_module)
    m.__class__ = TabM
    return True


def _convert_reference_model(m: Any) -> bool:
    if not _has(m, "backbone", "output", "minimal_ensemble_adapter", "share_training_batches", "k"):
        return False
    backbone, adapter = m.backbone, m.minimal_ensemble_adapter
    if m.k is None or isinstance(backbone, ReferenceBackbone):
        return m.k is not None
    if not _has(backbone, "blocks") or getattr(backbone, "output", None) is not None:
        return False
    if getattr(m, "cat_module", None) is not None:
        _convert_encoding(m.cat_module)
    _become_backbone(backbone, ReferenceBackbone)
    backbone._k, backbone._adapter = m.k, ()
    if type(adapter).__name__ == "ScaleEnsemble" and not has_hooks(adapter):
        adapter.__class__ = DeferredScale
        backbone._adapter = (adapter,)
    return True


def accelerate(model: nn.Module) -> nn.Module:
    """Make the ensemble modules inside `model` run on thrifty's ops, in place; returns `model`.

    Parameters stay the same objects under the same names: optimisers, schedulers and checkpoints
    go on as before. In eval mode without gradients a `tabm.TabM` on the CPU becomes one op.

    Args:
        model: a model that is or holds modules of `tabm`, of the older TabM reference code, or
            torch-uncertainty's BatchLinear, at any depth.

    Raises:
        ValueError: nothing in the model is known.

    Example::

        >>> import tabm
        >>> model = tabm.TabM.make(n_num_features=3, d_out=1, k=4, d_block=8)
        >>> model = accelerate(model)
        >>> model(torch.randn(2, 3)).shape
        torch.Size([2, 4, 1])
    """
    modules = list(model.modules())
    found = 0
    # From layers to models: a model is converted when its backbone has been.
    for convert in (_convert_layer, _convert_backbone, _convert_tabm, _convert_reference_model):
        found += sum(convert(m) for m in modules)
    if not found:
        raise ValueError(
            "accelerate: model: expected modules of tabm, of the older TabM reference code or "
            f"torch-uncertainty's BatchLinear, found none in {type(model).__name__}"
        )
    return model
