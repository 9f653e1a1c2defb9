"""The three TabM backbones: n blocks of linear, activation, dropout for k members at once.

Batch ensemble (`tabm`): LinearBatchEnsemble blocks; only the first r starts random.
Mini (`tabm-mini`):      one scaling (k, d_in), then linear layers shared by all members.
Packed (`tabm-packed`):  LinearEnsemble blocks, k separate networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .cache import PackedWeights
from .fused import has_hooks, run_network
from .layers import ElementwiseAffine, LinearBatchEnsemble, LinearEnsemble, check_positive

ARCH_TYPES = ("tabm", "tabm-naive", "tabm-mini", "tabm-packed")


class MLPBackboneEnsembleBase(nn.Module):
    """What the backbones share: the blocks, the number of members, and the fused forward.

    Input (B, d_in), shared by all members, or (B, k, d_in); output (B, k, d_block).
    """

    _packed: PackedWeights

    def __init__(
        self,
        make_linear: Callable[[int, int, int], nn.Module],
        *,
        d_in: int,
        n_blocks: int,
        d_block: int,
        dropout: float,
        activation: str = "ReLU",
        k: int,
    ) -> None:
        check_positive(type(self).__name__, d_in=d_in, n_blocks=n_blocks, d_block=d_block, k=k)
        kind = getattr(nn, activation, None)
        if not isinstance(kind, type) or not issubclass(kind, nn.Module):
            raise ValueError(
                f"{type(self).__name__}: activation: expected the name of a torch.nn module, "
                f"got {activation!r}"
            )
        super().__init__()
        self._k = k
        self._packed = PackedWeights()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                make_linear(i, d_in if i == 0 else d_block, d_block), kind(), nn.Dropout(dropout)
            )
            for i in range(n_blocks)
        )

    @property
    def k(self) -> int:
        """The number of members."""
        return self._k

    def get_original_output_shape(self) -> torch.Size:
        """Output shape of one member without batch dimensions."""
        last: Any = self.blocks[-1]
        weight = last[0].weight
        return torch.Size((weight.shape[-1] if weight.ndim == 3 else weight.shape[0],))

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The input, and a scaling (k, d_in) that the first block still has to apply."""
        return x, None

    def forward(self, x: Tensor, head: nn.Module | None = None, reduce: str = "none") -> Tensor:
        """Run the blocks; with `head` and `reduce`, the rest of the network in the same op."""
        if x.ndim not in (2, 3) or (x.ndim == 3 and x.shape[1] != self.k):
            raise ValueError(
                f"{type(self).__name__}: x: expected shape (B, d_in) or (B, {self.k}, d_in), "
                f"got {tuple(x.shape)}"
            )
        x, scale = self._scale(x)
        return run_network(
            x, self.blocks, self.k, self._packed, scale=scale, head=head, reduce=reduce
        )

    def clear_cache(self) -> None:
        """Forget the packed weights, after edits that torch cannot see (see the class page)."""
        self._packed.clear()

    def train(self, mode: bool = True) -> MLPBackboneEnsembleBase:
        """Set the mode, as nn.Module does, and forget the packed weights."""
        self.clear_cache()
        return super().train(mode)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        self.clear_cache()
        return super()._apply(fn, recurse)


class MLPBackboneBatchEnsemble(MLPBackboneEnsembleBase):
    """Blocks of LinearBatchEnsemble.

    Args:
        tabm_init: whether all scalings but the very first start as ones.
        scaling_init: distribution of the first scaling ("normal" or "random-signs"), and without
            `tabm_init` of all scalings.
        start_scaling_init_chunks: chunks of the first scaling, one per feature.
        kwargs: d_in, n_blocks, d_block, dropout, activation, k.

    Input (B, d_in) or (B, k, d_in), output (B, k, d_block). TabM, arXiv 2410.24210.

    Example::

        >>> sizes = {"d_in": 4, "n_blocks": 2, "d_block": 8, "dropout": 0.0, "k": 3}
        >>> backbone = MLPBackboneBatchEnsemble(
        ...     tabm_init=True, scaling_init="normal", start_scaling_init_chunks=None, **sizes)
        >>> backbone(torch.randn(5, 4)).shape
        torch.Size([5, 3, 8])
    """

    def __init__(
        self,
        *,
        tabm_init: bool,
        scaling_init: str,
        start_scaling_init_chunks: Sequence[int] | None,
        **kwargs: Any,
    ) -> None:
        later = "ones" if tabm_init else scaling_init

        def make_linear(i: int, d_in: int, d_out: int) -> nn.Module:
            return LinearBatchEnsemble(
                d_in,
                d_out,
                k=kwargs["k"],
                scaling_init=(scaling_init if i == 0 else later, later),
                first_scaling_init_chunks=start_scaling_init_chunks if i == 0 else None,
            )

        super().__init__(make_linear, **kwargs)


class MLPBackboneMiniEnsemble(MLPBackboneEnsembleBase):
    """One scaling per member, then nn.Linear blocks shared by all members.

    Args:
        affine_bias: whether the scaling has a bias (TabM: no).
        affine_scaling_init: "normal" or "random-signs".
        affine_scaling_init_chunks: chunks of the scaling, one per feature.
        kwargs: d_in, n_blocks, d_block, dropout, activation, k.

    Input (B, d_in) or (B, k, d_in), output (B, k, d_block). TabM-mini, arXiv 2410.24210.

    Example::

        >>> sizes = {"d_in": 4, "n_blocks": 2, "d_block": 8, "dropout": 0.0, "k": 3}
        >>> backbone = MLPBackboneMiniEnsemble(
        ...     affine_bias=False, affine_scaling_init="normal", **sizes)
        >>> backbone(torch.randn(5, 4)).shape
        torch.Size([5, 3, 8])
    """

    def __init__(
        self,
        *,
        affine_bias: bool,
        affine_scaling_init: str,
        affine_scaling_init_chunks: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(lambda i, d_in, d_out: nn.Linear(d_in, d_out), **kwargs)
        self.affine = ElementwiseAffine(
            (self.k, kwargs["d_in"]),
            bias=affine_bias,
            scaling_init=affine_scaling_init,
            scaling_init_chunks=affine_scaling_init_chunks,
        )

    def _scale(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.affine.bias is None and not has_hooks(self.affine):
            return x, self.affine.weight
        return self.affine(x.unsqueeze(1).expand(-1, self.k, -1) if x.ndim == 2 else x), None


class MLPBackboneEnsemble(MLPBackboneEnsembleBase):
    """Blocks of LinearEnsemble: k separate networks.

    Args:
        kwargs: d_in, n_blocks, d_block, dropout, activation, k.

    Input (B, d_in) or (B, k, d_in), output (B, k, d_block).

    Example::

        >>> backbone = MLPBackboneEnsemble(d_in=4, n_blocks=2, d_block=8, dropout=0.0, k=3)
        >>> backbone(torch.randn(5, 4)).shape
        torch.Size([5, 3, 8])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            lambda i, d_in, d_out: LinearEnsemble(d_in, d_out, k=kwargs["k"]), **kwargs
        )


def make_tabm_backbone(
    *,
    d_in: int,
    n_blocks: int,
    d_block: int,
    dropout: float,
    activation: str = "ReLU",
    k: int,
    arch_type: str = "tabm",
    start_scaling_init: str | None,
    start_scaling_init_chunks: Sequence[int] | None,
) -> MLPBackboneEnsembleBase:
    """The backbone of a TabM architecture.

    Args:
        d_in, n_blocks, d_block: width of the input, number and width of the blocks.
        dropout: rate after every activation.
        activation: name of a torch.nn module. ReLU, SiLU, GELU and Identity are fused.
        k: number of members.
        arch_type: "tabm", "tabm-naive" (all scalings random), "tabm-mini" or "tabm-packed".
        start_scaling_init: "random-signs" or "normal"; None for "tabm-packed", which has no r.
        start_scaling_init_chunks: sizes of the features in the input, see `init_scaling_`.

    Raises:
        ValueError: an architecture, initialisation or size that does not fit.

    Example::

        >>> backbone = make_tabm_backbone(
        ...     d_in=4, n_blocks=1, d_block=8, dropout=0.0, k=3,
        ...     start_scaling_init="normal", start_scaling_init_chunks=[2, 2])
        >>> backbone(torch.randn(5, 4)).shape
        torch.Size([5, 3, 8])
    """
    if arch_type not in ARCH_TYPES:
        raise ValueError(
            f"make_tabm_backbone: arch_type: expected one of {ARCH_TYPES}, got {arch_type!r}"
        )
    packed = arch_type == "tabm-packed"
    if packed != (start_scaling_init is None):
        raise ValueError(
            f"make_tabm_backbone: start_scaling_init: expected "
            f"{'None' if packed else 'a distribution'} with arch_type {arch_type!r}, "
            f"got {start_scaling_init!r}"
        )
    if packed and start_scaling_init_chunks is not None:
        raise ValueError("make_tabm_backbone: start_scaling_init_chunks: expected None, no r")
    if not packed and start_scaling_init_chunks is None:
        warnings.warn(
            "make_tabm_backbone: start_scaling_init_chunks: without it every column of a feature "
            "gets its own scaling, which may predict worse",
            stacklevel=2,
        )
    kwargs = {
        "d_in": d_in,
        "n_blocks": n_blocks,
        "d_block": d_block,
        "dropout": dropout,
        "activation": activation,
        "k": k,
    }
    if start_scaling_init is None:
        return MLPBackboneEnsemble(**kwargs)
    if arch_type == "tabm-mini":
        return MLPBackboneMiniEnsemble(
            affine_bias=False,
            affine_scaling_init=start_scaling_init,
            affine_scaling_init_chunks=start_scaling_init_chunks,
            **kwargs,
        )
    return MLPBackboneBatchEnsemble(
        tabm_init=arch_type == "tabm",
        scaling_init=start_scaling_init,
        start_scaling_init_chunks=start_scaling_init_chunks,
        **kwargs,
    )
