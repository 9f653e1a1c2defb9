"""The CPU kernels on NumPy arrays, for programs without torch.

The same native functions as behind the torch ops, hence the same bits. Arrays are float64, float32,
float16 or bfloat16 (`ml_dtypes.bfloat16`), with any strides. Forward passes only. Threads come from
a pool of this module's own; results do not depend on their number.

    >>> import numpy as np
    >>> import thrifty.numpy
    >>> x, weight = np.ones((5, 8), np.float32), np.ones((3, 8), np.float32)
    >>> thrifty.numpy.batch_ensemble_linear(x, weight, k=4).shape
    (5, 4, 3)
"""

from collections.abc import Sequence

import numpy as np

from thrifty import _native
from thrifty._byte_dfa import ByteDFA, Vocabulary
from thrifty._draft_tree import Draft, DraftTree
from thrifty._native import cpu_isa, get_num_threads, set_num_threads
from thrifty._ngram_table import NgramTable
from thrifty._numpy_awrs import (
    awrs_sample,
    awrs_sample_dfa,
    awrs_weights,
    sample_candidates,
    smc_resample,
)
from thrifty._numpy_drafting import row_stats, verify_chain, verify_tree
from thrifty._numpy_sampling import apply_token_bitmask_, filter_threshold, masked_sample

__all__ = [
    "ByteDFA",
    "Draft",
    "DraftTree",
    "NgramTable",
    "Vocabulary",
    "apply_token_bitmask_",
    "awrs_sample",
    "awrs_sample_dfa",
    "awrs_weights",
    "batch_ensemble_linear",
    "batch_ensemble_mlp",
    "cpu_isa",
    "ensemble_linear",
    "filter_threshold",
    "get_num_threads",
    "masked_sample",
    "row_stats",
    "sample_candidates",
    "set_num_threads",
    "smc_resample",
    "verify_chain",
    "verify_tree",
]


def batch_ensemble_linear(
    x: np.ndarray,
    weight: np.ndarray,
    r: np.ndarray | None = None,
    s: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    *,
    r_next: np.ndarray | None = None,
    dropout: float = 0.0,
    seed: tuple[int, int] | None = None,
    k: int | None = None,
    group: int | None = None,
) -> np.ndarray:
    """A linear layer of k members that share `weight`; see `thrifty.batch_ensemble_linear`.

    Args:
        seed: (seed, offset), each in [-2^63, 2^63); required when dropout > 0. Gives the mask that
            the torch op draws from the same pair.

    Raises:
        ValueError: as the torch op; also dropout without a seed.
    """
    return _native.batch_ensemble_linear(
        x, weight, r, s, bias, r_next, activation or "none", dropout, seed, k or 0, group or 0
    )


def ensemble_linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    *,
    dropout: float = 0.0,
    seed: tuple[int, int] | None = None,
) -> np.ndarray:
    """k separate linear layers, weight of (k, in, out); see `thrifty.ensemble_linear`.

    `seed` as in `batch_ensemble_linear`.
    """
    return _native.ensemble_linear(x, weight, bias, activation or "none", dropout, seed)


def batch_ensemble_mlp(
    x: np.ndarray,
    weight: Sequence[np.ndarray],
    r: Sequence[np.ndarray | None] | None = None,
    s: Sequence[np.ndarray | None] | None = None,
    bias: Sequence[np.ndarray | None] | None = None,
    *,
    activation: str = "relu",
    head_weight: np.ndarray | None = None,
    head_bias: np.ndarray | None = None,
    reduce: str = "none",
) -> np.ndarray:
    """A whole network of batch-ensemble layers; see `thrifty.batch_ensemble_mlp`."""
    r, s, bias = ([None] * len(weight) if v is None else v for v in (r, s, bias))
    return _native.batch_ensemble_mlp(
        x, weight, r, s, bias, head_weight, head_bias, activation, reduce
    )
