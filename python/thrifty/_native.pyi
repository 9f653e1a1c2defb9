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
