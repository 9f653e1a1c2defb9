"""TabM: an ensemble of k MLPs that share their weights (arXiv 2410.24210).

Features are concatenated (numerical, embedded or raw, then one-hot categories), k members run on
them in one backbone, and a head of k separate linear layers makes k predictions. The loss is the
mean of the members' losses; the prediction is the mean of the members' predictions (regression)
or probabilities (classification).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .backbones import make_tabm_backbone
from .categorical import OneHotEncoding
from .embeddings import check_num_embeddings
from .fused import has_hooks, reduce_members
from .layers import EnsembleView, LinearEnsemble


class TabM(nn.Module):
    """TabM with the constructor, parameters and state-dict names of the `tabm` package.

    Args:
        n_num_features: number of numerical features.
        cat_cardinalities: number of categories of each categorical feature.
        d_out: outputs per member; None returns the backbone's output.
        num_embeddings: embeddings of the numerical features, a module of `rtdl_num_embeddings`
            (see `thrifty.nn.piecewise_linear_embeddings`).
        n_blocks, d_block, dropout, activation, k, arch_type, start_scaling_init: see
            `thrifty.nn.make_tabm_backbone`. `TabM.make` has defaults for all of them.
        unknown_category: "error", or "zero": a category out of range is a row of zeros.

    Shape: x_num (B, n_num_features) float, x_cat (B, len(cat_cardinalities)) integer -> (B, k,
    d_out). With one batch per member, x_num and x_cat are (B, k, ...).

    Random: dropout masks follow torch's default generator (`torch.manual_seed`), but are not the
    masks of nn.Dropout.

    Example::

        >>> model = TabM.make(n_num_features=3, cat_cardinalities=[4], d_out=1, k=8, d_block=16)
        >>> x_num, x_cat = torch.randn(5, 3), torch.randint(4, (5, 1))
        >>> model(x_num, x_cat).shape
        torch.Size([5, 8, 1])
        >>> y = torch.randn(5, 1)
        >>> loss = (model(x_num, x_cat) - y[:, None]).square().mean()  # mean over members
        >>> model.eval().predict(x_num, x_cat).shape
        torch.Size([5, 1])
    """

    num_module: nn.Module | None
    cat_module: nn.Module | None
    output: nn.Module | None

    def __init__(
        self,
        *,
        n_num_features: int = 0,
        cat_cardinalities: Sequence[int] | None = None,
        d_out: int | None,
        num_embeddings: nn.Module | None = None,
        n_blocks: int,
        d_block: int,
        dropout: float,
        activation: str = "ReLU",
        k: int,
        arch_type: str = "tabm",
        start_scaling_init: str | None,
        unknown_category: str = "error",
    ) -> None:
        cardinalities = list(cat_cardinalities or [])
        if n_num_features < 0 or (n_num_features == 0 and not cardinalities):
            raise ValueError(
                "TabM: n_num_features: expected at least one numerical or categorical feature, "
                f"got n_num_features={n_num_features}, cat_cardinalities={cardinalities}"
            )
        if n_num_features == 0 and num_embeddings is not None:
            raise ValueError("TabM: num_embeddings: expected None without numerical features")
        super().__init__()
        width = 1
        if num_embeddings is not None:
            width = check_num_embeddings(num_embeddings, n_num_features)
        features = [width] * n_num_features + cardinalities
        self.num_module = num_embeddings
        self.cat_module = OneHotEncoding(cardinalities, unknown_category) if cardinalities else None
        self.ensemble_view = EnsembleView(k=k)
        self.backbone = make_tabm_backbone(
            d_in=sum(features),
            n_blocks=n_blocks,
            d_block=d_block,
            dropout=dropout,
            activation=activation,
            k=k,
            arch_type=arch_type,
            start_scaling_init=start_scaling_init,
            start_scaling_init_chunks=None if start_scaling_init is None else features,
        )
        self.output = None if d_out is None else LinearEnsemble(d_block, d_out, k=k)
        self._n_num_features = n_num_features
        self._n_cat_features = len(cardinalities)

    @classmethod
    def make(cls, **kwargs: Any) -> TabM:
        """TabM with default hyperparameters; every argument given takes precedence.

        Defaults: k 32, arch_type "tabm", d_block 512, dropout 0.1, ReLU, 3 blocks (2 with
        embeddings), start_scaling_init "random-signs" ("normal" with embeddings, None if packed).
        """
        embedded = kwargs.get("num_embeddings") is not None
        defaults: dict[str, Any] = {
            "n_blocks": 2 if embedded else 3,
            "d_block": 512,
            "dropout": 0.1,
            "activation": "ReLU",
            "k": 32,
            "arch_type": "tabm",
            "start_scaling_init": "normal" if embedded else "random-signs",
        }
        if kwargs.get("arch_type") == "tabm-packed":
            defaults["start_scaling_init"] = None
        return cls(**(defaults | kwargs))

    @property
    def k(self) -> int:
        """The number of members."""
        return self.backbone.k

    def _check_input(self, name: str, x: Tensor | None, n: int) -> None:
        if n == 0 and x is not None:
            raise ValueError(f"TabM: {name}: expected None, the model has no such features")
        if n > 0 and (x is None or x.ndim not in (2, 3) or x.shape[-1] != n):
            got = None if x is None else tuple(x.shape)
            raise ValueError(f"TabM: {name}: expected shape (B, {n}) or (B, k, {n}), got {got}")

    def _encode(self, x_num: Tensor | None, x_cat: Tensor | None) -> Tensor:
        """All features in one row: (B, d_in) or (B, k, d_in)."""
        self._check_input("x_num", x_num, self._n_num_features)
        self._check_input("x_cat", x_cat, self._n_cat_features)
        if x_num is not None and x_cat is not None and x_num.shape[:-1] != x_cat.shape[:-1]:
            raise ValueError(
                f"TabM: x_cat: expected batch shape {tuple(x_num.shape[:-1])}, as x_num, "
                f"got {tuple(x_cat.shape[:-1])}"
            )
        parts = []
        if x_num is not None:
            parts.append(x_num if self.num_module is None else self._embed(self.num_module, x_num))
        if x_cat is not None and self.cat_module is not None:
            dtype = parts[0].dtype if parts else next(self.backbone.parameters()).dtype
            parts.append(self.cat_module(x_cat, dtype))
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return self.ensemble_view(x) if x.ndim == 3 else x

    def _embed(self, module: nn.Module, x_num: Tensor) -> Tensor:
        rows = x_num.flatten(0, 1) if x_num.ndim == 3 else x_num  # embeddings take (rows, n)
        rows = module(rows).flatten(1)
        return rows.unflatten(0, x_num.shape[:2]) if x_num.ndim == 3 else rows

    def _run(self, x: Tensor, reduce: str) -> Tensor:
        head = self.output
        if head is None or has_hooks(head) or has_hooks(self.backbone):
            x = self.backbone(x)
            return reduce_members(x if head is None else head(x), reduce)
        return self.backbone(x, head, reduce)

    def forward(self, x_num: Tensor | None = None, x_cat: Tensor | None = None) -> Tensor:
        """The members' predictions, (B, k, d_out)."""
        return self._run(self._encode(x_num, x_cat), "none")

    @torch.no_grad()
    def predict(
        self, x_num: Tensor | None = None, x_cat: Tensor | None = None, *, reduce: str = "mean"
    ) -> Tensor:
        """The ensemble's prediction, (B, d_out), without gradients.

        Args:
            x_num, x_cat: as in `forward`.
            reduce: "mean" of the members' outputs (regression), "softmax_mean" of their class
                probabilities (classification), or "none". On the CPU in eval mode the whole
                network and the reduction are one op.
        """
        return self._run(self._encode(x_num, x_cat), reduce)
