"""Modules of the ensemble family, with the names and state dicts of the `tabm` package."""

from .accelerate import accelerate
from .backbones import (
    MLPBackboneBatchEnsemble,
    MLPBackboneEnsemble,
    MLPBackboneMiniEnsemble,
    make_tabm_backbone,
)
from .embeddings import piecewise_linear_embeddings
from .init import init_scaling_
from .layers import (
    ElementwiseAffine,
    EnsembleView,
    LinearBatchEnsemble,
    LinearEnsemble,
    ensemble_view,
)
from .tabm import TabM

__all__ = [
    "ElementwiseAffine",
    "EnsembleView",
    "LinearBatchEnsemble",
    "LinearEnsemble",
    "MLPBackboneBatchEnsemble",
    "MLPBackboneEnsemble",
    "MLPBackboneMiniEnsemble",
    "TabM",
    "accelerate",
    "ensemble_view",
    "init_scaling_",
    "make_tabm_backbone",
    "piecewise_linear_embeddings",
]
