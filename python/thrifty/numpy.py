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
from thrifty._expert_cache import ExpertCache, Load
from thrifty._native import cpu_isa, get_num_threads, set_num_threads
from thrifty._ngram_table import NgramTable
from thrifty._numpy_attention import (
    bucket_sort,
    centroid_bucket,
    hyper_attention,
    hyper_core,
    lsh_bucket,
)
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
    "ExpertCache",
    "Load",
    "NgramTable",
    "Vocabulary",
    "apply_token_bitmask_",
    "awrs_sample",
    "awrs_sample_dfa",
    "awrs_weights",
    "batch_ensemble_linear",
    "batch_ensemble_mlp",
    "bucket_sort",
    "centroid_bucket",
    "cpu_isa",
    "ensemble_linear",
    "filter_threshold",
    "gather_rows",
    "get_num_threads",
    "grouped_mm",
    "hyper_attention",
    "hyper_core",
    "lsh_bucket",
    "masked_sample",
    "moe_mlp",
    "moe_permute",
    "moe_route",
    "row_stats",
    "sample_candidates",
    "scatter_add_rows",
    "set_num_threads",
    "smc_resample",
    "token_topk",
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


def moe_route(
    logits: np.ndarray,
    top_k: int,
    *,
    score: str = "softmax",
    renorm: bool = False,
    scale: float = 1.0,
    bias: np.ndarray | None = None,
    expert_mask: np.ndarray | None = None,
    n_group: int = 1,
    topk_group: int = 1,
    group_topn: int = 2,
) -> tuple[np.ndarray, np.ndarray]:
    """The top_k experts of each token: (weights, ids); see `thrifty.moe_route`."""
    mask = None if expert_mask is None else np.asarray(expert_mask).astype(np.uint8)
    group_topn = group_topn if topk_group < n_group else 1
    return _native.moe_route(
        logits, top_k, score, renorm, scale, bias, mask, n_group, topk_group, group_topn
    )


def moe_permute(
    ids: np.ndarray,
    num_experts: int,
    *,
    expert_map: np.ndarray | None = None,
    capacity: int | None = None,
    priority: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The order of routed rows: (slot, offsets, inverse); see `thrifty.moe_permute`."""
    if capacity is not None and capacity < 1:
        raise ValueError(f"moe_permute: capacity: expected None or at least 1, got {capacity}")
    return _native.moe_permute(ids, num_experts, expert_map, capacity or 0, priority)


def grouped_mm(
    a: np.ndarray,
    b: np.ndarray,
    offs: np.ndarray,
    *,
    a_idx: np.ndarray | None = None,
    bias: np.ndarray | None = None,
    row_scale: np.ndarray | None = None,
    accumulate: np.ndarray | None = None,
) -> np.ndarray:
    """Matrix products over groups of rows; see `thrifty.grouped_mm`. Strided arrays are copied."""
    return _native.grouped_mm(a, b, offs, a_idx, bias, row_scale, accumulate)


def moe_mlp(
    x: np.ndarray,
    w1: np.ndarray,
    w2: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray,
    *,
    b1: np.ndarray | None = None,
    b2: np.ndarray | None = None,
    activation: str = "swiglu",
    transposed: bool = False,
    interleaved: bool = False,
    alpha: float = 1.702,
    limit: float = 7.0,
    expert_map: np.ndarray | None = None,
) -> np.ndarray:
    """The experts of a layer; see `thrifty.moe_mlp`. Strided arrays are copied."""
    return _native.moe_mlp(
        x, w1, w2, ids, weights, b1, b2, activation, transposed, interleaved, alpha, limit,
        expert_map,
    )  # fmt: skip


def token_topk(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best tokens of each sequence: (weights, index); see `thrifty.token_topk`."""
    return _native.token_topk(scores, k)


def gather_rows(x: np.ndarray, index: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Rows of each sequence; see `thrifty.gather_rows`."""
    return _native.gather_rows(x, index, weights)


def scatter_add_rows(
    x: np.ndarray, index: np.ndarray, src: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """x with rows added at an index; see `thrifty.scatter_add_rows`."""
    return _native.scatter_add_rows(x, index, src, weights)
