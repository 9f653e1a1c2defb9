"""The pybind11 module built from csrc/python."""

from collections.abc import Sequence

import numpy as np

def cpu_isa() -> str:
    """The instruction set in use: "baseline", "avx2", "avx512" or "amx"."""

def set_num_threads(threads: int) -> None: ...
def get_num_threads() -> int: ...
def batch_ensemble_linear(
    x: np.ndarray,
    weight: np.ndarray,
    r: np.ndarray | None,
    s: np.ndarray | None,
    bias: np.ndarray | None,
    r_next: np.ndarray | None,
    activation: str,
    dropout: float,
    seed: tuple[int, int] | None,
    k: int,
    group: int,
) -> np.ndarray: ...
def ensemble_linear(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None,
    activation: str,
    dropout: float,
    seed: tuple[int, int] | None,
) -> np.ndarray: ...
def batch_ensemble_mlp(
    x: np.ndarray,
    weight: Sequence[np.ndarray],
    r: Sequence[np.ndarray | None],
    s: Sequence[np.ndarray | None],
    bias: Sequence[np.ndarray | None],
    head_weight: np.ndarray | None,
    head_bias: np.ndarray | None,
    activation: str,
    reduce: str,
) -> np.ndarray: ...
def moe_route(
    logits: np.ndarray,
    top_k: int,
    score: str,
    renorm: bool,
    scale: float,
    bias: np.ndarray | None,
    expert_mask: np.ndarray | None,
    n_group: int,
    topk_group: int,
    group_topn: int,
) -> tuple[np.ndarray, np.ndarray]: ...
def moe_permute(
    ids: np.ndarray,
    num_experts: int,
    expert_map: np.ndarray | None,
    capacity: int,
    priority: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...
def grouped_mm(
    a: np.ndarray,
    b: np.ndarray,
    offs: np.ndarray,
    a_idx: np.ndarray | None,
    bias: np.ndarray | None,
    row_scale: np.ndarray | None,
    accumulate: np.ndarray | None,
) -> np.ndarray: ...
def moe_mlp(
    x: np.ndarray,
    w1: np.ndarray,
    w2: np.ndarray,
    ids: np.ndarray,
    weights: np.ndarray,
    b1: np.ndarray | None,
    b2: np.ndarray | None,
    activation: str,
    transposed: bool,
    interleaved: bool,
    alpha: float,
    limit: float,
    expert_map: np.ndarray | None,
) -> np.ndarray: ...
