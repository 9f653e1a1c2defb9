"""Numerical embeddings for TabM, through the optional package `rtdl_num_embeddings`.

The strongest TabM of the paper uses piecewise-linear embeddings (version "B", no activation) with
48 quantile bins and 16 dimensions a feature. They are fully shared by all members.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def _package() -> Any:
    try:
        import rtdl_num_embeddings  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError(
            "piecewise_linear_embeddings: the package rtdl_num_embeddings is not installed; "
            "`pip install rtdl_num_embeddings`"
        ) from error
    return rtdl_num_embeddings


def piecewise_linear_embeddings(
    x_train: Tensor, *, n_bins: int = 48, d_embedding: int = 16, **bin_options: Any
) -> nn.Module:
    """Piecewise-linear embeddings with the bins of `x_train`, as TabM recommends them.

    Args:
        x_train: numerical training features (rows, n), float32, no constant column.
        n_bins: bins per feature; at most rows - 1.
        d_embedding: width of one feature's embedding.
        bin_options: passed on to `rtdl_num_embeddings.compute_bins` (target-aware bins).

    Example::

        >>> embeddings = piecewise_linear_embeddings(torch.randn(100, 3), n_bins=4, d_embedding=2)
        >>> embeddings(torch.randn(5, 3)).shape
        torch.Size([5, 3, 2])
    """
    package = _package()
    bins = package.compute_bins(x_train, n_bins=n_bins, **bin_options)
    return package.PiecewiseLinearEmbeddings(bins, d_embedding, activation=False, version="B")


def check_num_embeddings(module: nn.Module, n_num_features: int) -> int:
    """The embedding's width, after checking that TabM can use the module."""
    shape = getattr(module, "get_output_shape", None)
    if not isinstance(module, nn.Module) or shape is None:
        raise ValueError(
            "TabM: num_embeddings: expected a module of rtdl_num_embeddings (or one with "
            f"get_output_shape() -> (n_features, d)), got {type(module).__name__}"
        )
    if type(module).__name__ == "PiecewiseLinearEmbeddings" and module.linear0 is None:
        raise ValueError("TabM: num_embeddings: expected PiecewiseLinearEmbeddings version 'B'")
    n, width = shape()
    if n != n_num_features:
        raise ValueError(
            f"TabM: num_embeddings: expected {n_num_features} features, as n_num_features, got {n}"
        )
    return width
